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
