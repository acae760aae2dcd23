// What only the machine can do: conversions, copies and barriers of `gated_fusion.cu`, which defines
// Pair, GROUP and BFLOAT first.

#pragma once

#include "dependent_launch.cuh"

__device__ __forceinline__ float2 widen(Pair pair) {
    float2 value;
#if BFLOAT
    value.x = __uint_as_float(pair << 16);
    value.y = __uint_as_float(pair & 0xffff0000u);
#else
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
        : "=f"(value.x), "=f"(value.y)
        : "r"(pair));
#endif
    return value;
}

__device__ __forceinline__ Pair narrow(float2 value) {
    Pair pair;
#if BFLOAT
    asm("cvt.rn.bf16x2.f32 %0, %2, %1;" : "=r"(pair) : "f"(value.x), "f"(value.y));
#else
    asm("cvt.rn.f16x2.f32 %0, %2, %1;" : "=r"(pair) : "f"(value.x), "f"(value.y));
#endif
    return pair;
}

__device__ __forceinline__ float inverse_root(float x) {
    float y;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ void copy_async(void* shared, const void* global) {
    unsigned int at = static_cast<unsigned int>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(global) : "memory");
}

__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}

// All threads of a strip.
__device__ __forceinline__ void sync_strip(int strip) {
    asm volatile("bar.sync %0, %1;" ::"r"(strip + 1), "n"(GROUP) : "memory");
}
