// The instructions of `selective_scan.cu` that others do not need.

#pragma once

#include "hopper.cuh"

// So that a value is kept in a register of its own: the compiler would find it cheap to compute it
// anew in every round of a loop.
template <typename Value>
__device__ __forceinline__ void keep(Value& value) {
    if constexpr (sizeof(Value) == 8)
        asm volatile("" : "+l"(value));
    else
        asm volatile("" : "+r"(value));
}

// Puts the map h -> reach h + before in front of h -> decay h + state, if it is to be.
__device__ __forceinline__ void compose_if(
    bool is_to_be, float& state, float& decay, float before, float reach
) {
    // as the compiler has it, both results would be computed and then chosen
    asm("{\n.reg .pred p;\nsetp.ne.u32 p, %4, 0;\n@p fma.rn.f32 %0, %1, %2, %0;\n"
        "@p mul.f32 %1, %1, %3;\n}"
        : "+f"(state), "+f"(decay)
        : "f"(before), "f"(reach), "r"(static_cast<u32>(is_to_be)));
}

// 16 or 4 bytes to shared memory, of which so many come from `global`: all, or none for zeros.
template <int BYTES>
__device__ __forceinline__ void copy_async(u32 shared, const void* global, int bytes) {
    if constexpr (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
                     "r"(bytes)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(global),
                     "r"(bytes)
                     : "memory");
}

__device__ __forceinline__ void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Until at most PENDING of this thread's groups of copies are on their way.
template <int PENDING>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// The counterpart of `store_turned`.
__device__ __forceinline__ void load_turned(u32 (&pairs)[4], u32 shared) {
    asm volatile(
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3])
        : "r"(shared)
        : "memory");
}

#define SUMS(d) "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
#define FOUR(c) "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3])

// sums = a b + c: 16 x 8, eight deep. A lane holds rows lane / 4 and the one eight further on, of
// them columns 2 (lane % 4) and the next one; of b as many rows of column lane / 4.
__device__ __forceinline__ void multiply(
    float (&sums)[4], const u32 (&a)[2], u32 b, const float (&c)[4]
) {
    asm("mma.sync.aligned.m16n8k8.row.col." TYPES ".f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%7, %8, %9, %10};"
        : SUMS(sums)
        : "r"(a[0]), "r"(a[1]), "r"(b), FOUR(c));
}

// The same with two pieces, sixteen deep.
__device__ __forceinline__ void multiply(
    float (&sums)[4],
    const u32 (&a)[2],
    const u32 (&more)[2],
    u32 b,
    u32 more_b,
    const float (&c)[4]
) {
    asm("mma.sync.aligned.m16n8k16.row.col." TYPES ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%10, %11, %12, %13};"
        : SUMS(sums)
        : "r"(a[0]), "r"(a[1]), "r"(more[0]), "r"(more[1]), "r"(b), "r"(more_b), FOUR(c));
}
