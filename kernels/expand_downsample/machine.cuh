// The instructions of `expand_downsample.cu` that others do not need.

#pragma once

#include "hopper.cuh"

#define FOUR(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define OPERANDS(a, b, accumulate) "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate)

// sums (+)= a b^T: 64 x 64, 56 or 32, 16 deep, by the 128 threads of a group together; each holds
// its part of a.
__device__ __forceinline__ void multiply(
    float (&sums)[32], const u32 (&a)[4], u64 b, int accumulate
) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16." TYPES " "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}"
        : EIGHT(sums, 0), EIGHT(sums, 8), EIGHT(sums, 16), EIGHT(sums, 24)
        : OPERANDS(a, b, accumulate));
}

__device__ __forceinline__ void multiply(
    float (&sums)[28], const u32 (&a)[4], u64 b, int accumulate
) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %33, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n56k16." TYPES " "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27}, "
        "{%28, %29, %30, %31}, %32, p, 1, 1, 0;\n}"
        : EIGHT(sums, 0), EIGHT(sums, 8), EIGHT(sums, 16), FOUR(sums, 24)
        : OPERANDS(a, b, accumulate));
}

__device__ __forceinline__ void multiply(
    float (&sums)[16], const u32 (&a)[4], u64 b, int accumulate
) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %21, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16." TYPES " "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
        "{%16, %17, %18, %19}, %20, p, 1, 1, 0;\n}"
        : EIGHT(sums, 0), EIGHT(sums, 8)
        : OPERANDS(a, b, accumulate));
}
