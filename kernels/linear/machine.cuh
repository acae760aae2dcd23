// The instructions of `wide_product.cu` that others do not need.

#pragma once

#include "hopper.cuh"

// sums (+)= a b^T: 64 x 128, 16 deep, by the 128 threads of a group together.
__device__ __forceinline__ void multiply(float (&sums)[64], u64 a, u64 b, int accumulate) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16." TYPES " "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, p, 1, 1, 0, 0;\n}"
        : EIGHT(sums, 0), EIGHT(sums, 8), EIGHT(sums, 16), EIGHT(sums, 24), EIGHT(sums, 32),
          EIGHT(sums, 40), EIGHT(sums, 48), EIGHT(sums, 56)
        : "l"(a), "l"(b), "r"(accumulate));
}

// A box of five axes, the innermost first.
__device__ __forceinline__ void load_box(
    u32 shared, const TensorMap& map, int at, int second, int third, int fourth, int fifth,
    u32 barrier
) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4, %5, %6}], [%7];" ::"r"(shared),
        "l"(&map), "r"(at), "r"(second), "r"(third), "r"(fourth), "r"(fifth), "r"(barrier)
        : "memory");
}
