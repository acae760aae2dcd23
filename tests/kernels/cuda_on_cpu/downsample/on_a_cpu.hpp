// `machine.cuh` of the down-sampling, for a CPU.

#pragma once

#include "hopper.hpp"

// A lane holds columns 2 (lane % 4), the next one, and those eight further on, of two rows; what the
// others of its four hold of these rows it asks them for.
template <int SUMS>
void multiply(float (&sums)[SUMS], const u32 (&a)[4], u64 b, int accumulate) {
    const int lane = threadIdx.x % 32;
    float rows[2][16];
    for (int other = 0; other < 4; ++other)
        for (int part = 0; part < 4; ++part) {
            const u32 pair = __shfl_sync(0xffffffffu, a[part], lane / 4 * 4 + other);
            float* const to = rows[part % 2] + part / 2 * 8 + other * 2;
            to[0] = widen_half(pair & 0xffff);
            to[1] = widen_half(pair >> 16);
        }
    for (int i = 0; i < SUMS; ++i) {
        const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        float sum = accumulate ? sums[i] : 0.0f;
        for (int k = 0; k < 16; ++k) sum += rows[i / 2 % 2][k] * operand(b, column, k);
        sums[i] = sum;
    }
}
