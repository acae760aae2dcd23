// Depthwise 3x3 convolution with zero padding, then SiLU; or added to its input, with LayerNorm
// statistics of the sums.
//
// A thread owns two channels, keeps their nine taps in registers and walks down a strip of seven
// columns: each value is read and converted once and goes into the three rows of answers that it
// reaches, which wait in registers until they are complete.
//
// Compiled at run time for each kind of map (see cuda_fwd.py), which defines
//   C, STRIDE   channels; elements between two tokens of x
//   GROUP       threads of a strip, two channels each; with statistics all of a token
//   STRIPS      that a block works on side by side
//   SILU        1: SiLU; 0: the input is added
//   STATISTICS  1: mean and 1 / standard deviation of each token are wanted
//   OFFSET      1: a part of the bias that the statistics leave out
//   WHOLE       1: rows are full strips
//   BFLOAT      1: values are bfloat16, 0: float16

constexpr int WIDTH = 7;  // tokens of a strip
constexpr int WARPS = GROUP / 32;
constexpr int THREADS = GROUP * STRIPS;
constexpr int PAIRS = C / 2;

typedef unsigned int Pair;  // two neighbouring channels

#ifdef ON_A_CPU  // the tests run the kernel there
#include "on_a_cpu.hpp"
#else
#include "machine.cuh"
#endif
#include "strips.cuh"

// The batch, and how it is cut: rows into `across` strips, columns into `segments` of so many rows.
struct Maps {
    int H, W, across, segments, rows;
    long long tokens;
};

// Where a group of warps works.
struct Place {
    long long image;
    int column, begin, end;
};

__device__ __forceinline__ Place place_of(const Maps& maps, int unit) {
    const int above = unit / maps.across, begin = above % maps.segments * maps.rows;
    return {
        above / maps.segments, unit % maps.across * WIDTH, begin, min(begin + maps.rows, maps.H)
    };
}

// A row of a strip and the token on either side; zero outside the map.
struct Line {
    Pair values[WIDTH + 2];
};

__device__ __forceinline__ Line read_line(
    const Pair* first,  // token of the strip
    const Maps& maps,
    const Place& place,
    int row
) {
    Line line;
    const bool exists = row >= 0 && row < maps.H;
#pragma unroll
    for (int i = 0; i < WIDTH + 2; ++i) {
        const int column = place.column + i - 1;
        // inside a full strip nothing can be missing
        const bool inside = (i > 0 || column >= 0) && ((WHOLE && i <= WIDTH) || column < maps.W);
        line.values[i] = exists && inside ? first[(i - 1) * (STRIDE / 2)] : 0;
    }
    return line;
}

struct Weights {
    float2 taps[9], bias;
};

__device__ __forceinline__ Weights load_weights(
    const float2* __restrict__ weight, const float2* __restrict__ bias, int pair
) {
    Weights own;
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) own.taps[tap] = weight[tap * PAIRS + pair];
    if (!SILU) own.taps[4].x += 1.0f, own.taps[4].y += 1.0f;
    own.bias = bias[pair];
    return own;
}

// sums + the taps of one row
__device__ __forceinline__ float2 add_row(
    float2 sums, const float2* taps, float2 left, float2 middle, float2 right
) {
    sums.x += left.x * taps[0].x;
    sums.y += left.y * taps[0].y;
    sums.x += middle.x * taps[1].x;
    sums.y += middle.y * taps[1].y;
    sums.x += right.x * taps[2].x;
    sums.y += right.y * taps[2].y;
    return sums;
}

// Sums of three rows of answers: `above` is complete but for this line, which begins `below`.
__device__ __forceinline__ void add_line(
    float2 (&done)[WIDTH],
    float2 (&above)[WIDTH],
    float2 (&here)[WIDTH],
    const Line& line,
    const Weights& own
) {
    float2 values[WIDTH + 2];
#pragma unroll
    for (int i = 0; i < WIDTH + 2; ++i) values[i] = widen(line.values[i]);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        done[j] = add_row(above[j], own.taps + 6, values[j], values[j + 1], values[j + 2]);
        above[j] = add_row(here[j], own.taps + 3, values[j], values[j + 1], values[j + 2]);
        here[j] = add_row(own.bias, own.taps, values[j], values[j + 1], values[j + 2]);
    }
}

__device__ __forceinline__ float silu(float x) {
    return x * reciprocal(1.0f + power_of_two(x * -1.4426950408889634f));
}

// LayerNorm statistics of a strip's rounded values, which the next layer reads, less the offset.
__device__ __forceinline__ void write_statistics(
    float* statistics,
    const Pair (&rounded)[WIDTH],
    float2 offset,
    float* scratch,
    const Maps& maps,
    int column,
    long long token,
    float eps
) {
    const int strip = threadIdx.x / GROUP, member = threadIdx.x % GROUP;
    float mean[WIDTH], scale[WIDTH];
    float2 values[WIDTH];
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        values[j] = widen(rounded[j]);
        if (OFFSET) values[j].x -= offset.x, values[j].y -= offset.y;
        mean[j] = values[j].x + values[j].y;
    }
    sum_channels(mean, scratch, strip);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        mean[j] *= 1.0f / C;
        const float x = values[j].x - mean[j], y = values[j].y - mean[j];
        scale[j] = x * x + y * y;
    }
    sum_channels(scale, scratch + WARPS * 8, strip);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j)
        if (member == j && (WHOLE || column + j < maps.W)) {
            statistics[token + j] = mean[j];
            statistics[maps.tokens + token + j] = inverse_root(scale[j] * (1.0f / C) + eps);
        }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) depthwise(
    const Pair* __restrict__ x,  // (B, H, W, C), tokens STRIDE elements apart
    const float2* __restrict__ weight,  // (9, C)
    const float2* __restrict__ bias,  // (C,)
    const float2* __restrict__ offset,  // (C,), read with OFFSET
    Pair* __restrict__ out,  // (B, H, W, C)
    float* __restrict__ statistics,  // (2, B, H, W), written with STATISTICS
    int units,
    int images,
    int H,
    int W,
    int segments,
    int rows,
    float eps
) {
    extern __shared__ __align__(16) float all_scratch[];  // with STATISTICS, as sum_channels wants
    const int strip = threadIdx.x / GROUP, unit = blockIdx.x * STRIPS + strip;
    if (unit >= units) return;
    Maps maps = {H, W, (W + WIDTH - 1) / WIDTH, segments, rows, (long long)images * H * W};
    const Place place = place_of(maps, unit);
    const int pair = blockIdx.y * GROUP + threadIdx.x % GROUP;
    const Weights own = load_weights(weight, bias, pair);
    float* scratch = all_scratch + strip * 2 * WARPS * 8;
    const float2 own_offset = OFFSET ? offset[pair] : make_float2(0.0f, 0.0f);

    // the first line is the one above the first row of answers, which comes two lines later
    long long token = (place.image * H + place.begin - 1) * W + place.column;
    const Pair* from = x + token * (STRIDE / 2) + pair;
    Pair* to = out + token * PAIRS + pair;
    float2 above[WIDTH] = {}, here[WIDTH] = {};
    Line next = read_line(from, maps, place, place.begin - 1);
#pragma unroll 1
    for (int row = place.begin - 1; row <= place.end; ++row) {
        const Line line = next;
        from += W * (STRIDE / 2);
        if (row < place.end) next = read_line(from, maps, place, row + 1);
        float2 done[WIDTH];
        add_line(done, above, here, line, own);
        if (row <= place.begin) continue;

        to += W * PAIRS;
        token += W;
        Pair rounded[WIDTH];
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
            if (SILU) done[j] = make_float2(silu(done[j].x), silu(done[j].y));
            rounded[j] = narrow(done[j]);
            if (WHOLE || place.column + j < W) to[j * PAIRS] = rounded[j];
        }
        if (STATISTICS)
            write_statistics(
                statistics, rounded, own_offset, scratch, maps, place.column, token, eps
            );
    }
}
