// `machine.cuh` of the product, for a CPU.

#pragma once

#include "hopper.hpp"

inline void multiply(float (&sums)[64], u64 a, u64 b, int accumulate) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    for (int i = 0; i < 64; ++i) {
        const int row = warp * 16 + lane / 4 + i / 2 % 2 * 8;
        const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        float sum = accumulate ? sums[i] : 0.0f;
        for (int k = 0; k < 16; ++k) sum += operand(a, row, k) * operand(b, column, k);
        sums[i] = sum;
    }
}

// Four matrices of 8 x 8; lane 8 i + j gives the address of row j of matrix i.
inline void store_matrices(u32 shared, const u32 (&pairs)[4]) {
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; ++i) {
        const u32 row = __shfl_sync(0xffffffffu, shared, 8 * i + lane / 4);
        std::memcpy(memory + row + lane % 4 * 4, &pairs[i], 4);
    }
}
