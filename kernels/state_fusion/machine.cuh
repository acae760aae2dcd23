// The instructions of `gated_fusion.cu` that other kernels do not need.

#pragma once

#include "strip_machine.cuh"

__device__ __forceinline__ void copy_async(void* shared, const void* global) {
    unsigned int at = static_cast<unsigned int>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(global) : "memory");
}

__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}
