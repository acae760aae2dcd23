// `depthwise.cu` as a function of a shared library.

#include "threads.hpp"

#define ON_A_CPU
#include "depthwise.cu"

alignas(16) float all_scratch[STRIPS * 2 * WARPS * 8];

extern "C" void run(
    int blocks, int channel_blocks, const Pair* x, const float2* weight, const float2* bias,
    const float2* offset, Pair* out, float* statistics, int units, int images, int H, int W,
    int segments, int rows, float eps
) {
    run_grid({blocks, channel_blocks, 1}, THREADS, GROUP, [&] {
        depthwise(
            x, weight, bias, offset, out, statistics, units, images, H, W, segments, rows, eps
        );
    });
}
