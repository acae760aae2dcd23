// `expand_downsample.cu` as a function of a shared library.

#include "threads.hpp"

#define ON_A_CPU
#include "expand_downsample.cu"

extern "C" void run(
    int blocks, std::uint16_t* x, std::uint16_t* weight, const float* bias, const float* taps,
    const float* shift, std::uint16_t* out, int images, int H, int W, int stride, int tiles,
    int strips, int rows
) {
    const int OH = (H + 1) / 2, OW = (W + 1) / 2;
    const TensorMap x_map =
        map_of({x, {C, W, images * H}, {1, stride, (long long)W * stride}, {DEPTH, P, 1}});
    const TensorMap out_map = map_of(
        {out, {N, OW, images * OH}, {1, N, (long long)OW * N}, {CHANNELS, ANSWERS - HALO, 1}}
    );
    run_grid({blocks, 1, 1}, GROUP * (1 + GROUPS), GROUP, [&] {
        expand_downsample(
            x_map, out_map, reinterpret_cast<const u32*>(weight), bias, taps, shift, images, H, W,
            tiles, strips, rows
        );
    });
}
