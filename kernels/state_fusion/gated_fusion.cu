// State fusion, read-out, LayerNorm and gate in one pass: norm(C * fuse(state) + D * u) * gate.
//
// A thread owns two channels and keeps their 25 taps in registers for as long as it lives; a group
// of warps that owns all channels works on a strip of seven neighbouring tokens at a time, and the
// block's strips go down the map row by row. The rows that the taps reach lie in a ring in shared
// memory, so each is read from device memory once; while one row is computed the next one arrives.
//
// Compiled at run time for each number of channels (see cuda_fwd.py), which defines
//   E           channels, a multiple of 64 PASSES
//   PASSES      pairs of channels of a thread
//   STRIPS      strips that a block works on side by side
//   P           values a token has in `projected`
//   GATE        elements between two tokens of the gate
//   STEP        rows that are computed between two meetings of the block's threads
//   ACROSS      strips in a row of the map; 3: that many or more
//   WHOLE       1: rows are full strips
//   BFLOAT      1: values are bfloat16, 0: float16

constexpr int WIDTH = 7;  // tokens of a strip
constexpr int REACH = 5;  // tokens between a strip and the farthest tap
constexpr int GROUP = E / 2 / PASSES;  // threads of a strip
constexpr int WARPS = GROUP / 32;
constexpr int THREADS = GROUP * STRIPS;
constexpr int PAIRS = E / 2;
constexpr int RING = 2 * (REACH + STEP);  // rows: those that the taps of STEP rows reach, the next

typedef unsigned int Pair;  // two neighbouring channels

#ifdef ON_A_CPU  // the tests run the kernel there
#include "on_a_cpu.hpp"
#else
#include "machine.cuh"
#endif

__device__ __forceinline__ float widen(unsigned short single) {
    return widen(static_cast<Pair>(single)).x;
}

__device__ __forceinline__ int clamp(int index, int limit) {
    return min(max(index, 0), limit - 1);
}

// The columns of the map that a block keeps: those of its strips and what their taps reach. A
// strip that hangs over the map's edge finds the last column repeated.
struct Columns {
    int first, count, last_of_map;
};

__device__ __forceinline__ void fetch_row(
    Pair* slot, const Pair* row, const Columns& columns
) {
    constexpr int VECTORS = E / 8;  // 16 bytes each
    for (int i = threadIdx.x; i < columns.count * VECTORS; i += THREADS) {
        int column = min(columns.first + i / VECTORS, columns.last_of_map);
        copy_async(slot + i * 4, row + (column * VECTORS + i % VECTORS) * 4);
    }
}

// Whether a strip is the first or the last of its row: the columns beyond repeat its edge.
template <bool FIRST, bool LAST>
struct Edges {
    static constexpr bool first = FIRST, last = LAST;
};

template <int SHIFT, typename Edges>
__device__ __forceinline__ float2 load(const Pair* strip) {
    constexpr int FROM = Edges::first && SHIFT < 0           ? 0
                         : Edges::last && SHIFT > WIDTH - 1 ? WIDTH - 1
                                                            : SHIFT;
    return widen(strip[FROM * PAIRS]);
}

// Which tap joins a token to what lies `distance` columns beside it in a row: an index, or -1.
template <int DILATION>
constexpr __device__ int tap_of(int distance) {
    if (DILATION == 0) {
        const int middle[11] = {0, -1, 1, -1, 2, 3, 4, -1, 5, -1, 6};
        return distance < -REACH || distance > REACH ? -1 : middle[distance + REACH];
    }
    return distance == 0 ? 1 : distance == -DILATION ? 0 : distance == DILATION ? 2 : -1;
}

template <int DILATION, int SHIFT>
constexpr __device__ bool is_needed() {
    for (int token = 0; token < WIDTH; ++token)
        if (tap_of<DILATION>(SHIFT - token) >= 0) return true;
    return false;
}

// Adds one row's values to the strip's sums, neighbour by neighbour; DILATION 0 is the strip's own
// row with the taps of all three dilations.
template <int DILATION, typename Edges, int SHIFT = -REACH>
__device__ __forceinline__ void add_row(
    float2 (&sums)[WIDTH], const Pair* strip, const float2* taps
) {
    if constexpr (SHIFT < WIDTH + REACH) {
        if constexpr (is_needed<DILATION, SHIFT>()) {
            const float2 value = load<SHIFT, Edges>(strip);
#pragma unroll
            for (int token = 0; token < WIDTH; ++token) {
                const int tap = tap_of<DILATION>(SHIFT - token);
                if (tap >= 0) {
                    sums[token].x += value.x * taps[tap].x;
                    sums[token].y += value.y * taps[tap].y;
                }
            }
        }
        add_row<DILATION, Edges, SHIFT + 1>(sums, strip, taps);
    }
}

__device__ __forceinline__ float exchange(float keep, float give, int distance) {
    return keep + __shfl_xor_sync(0xffffffffu, give, distance);
}

// Sum over a warp of seven values at once: with every exchange a lane gives away half of them.
// Lane l ends with the sum of value l / 4.
__device__ __forceinline__ float sum_warp(const float (&values)[WIDTH]) {
    const int lane = threadIdx.x % 32;
    const bool high = lane & 16, middle = lane & 8, low = lane & 4;
    float four[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float other = i + 4 < WIDTH ? values[i + 4] : 0.0f;
        four[i] = exchange(high ? other : values[i], high ? values[i] : other, 16);
    }
    float two[2];
#pragma unroll
    for (int i = 0; i < 2; ++i)
        two[i] = exchange(middle ? four[i + 2] : four[i], middle ? four[i] : four[i + 2], 8);
    float one = exchange(low ? two[1] : two[0], low ? two[0] : two[1], 4);
    one = exchange(one, one, 2);
    return exchange(one, one, 1);
}

// What lane 4 j holds of value j, in every lane.
__device__ __forceinline__ void spread(float (&values)[WIDTH], float held) {
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) values[j] = __shfl_sync(0xffffffffu, held, 4 * j);
}

__device__ __forceinline__ void read_partial(float (&values)[WIDTH], const float* partial) {
    const float4 a = *reinterpret_cast<const float4*>(partial);
    const float4 b = *reinterpret_cast<const float4*>(partial + 4);
    values[0] = a.x, values[1] = a.y, values[2] = a.z, values[3] = a.w;
    values[4] = b.x, values[5] = b.y, values[6] = b.z;
}

// Sums over all channels, one a token; `scratch` is this strip's, [WARPS][8].
__device__ __forceinline__ void sum_channels(
    float (&values)[WIDTH], float* scratch, int strip
) {
    const int member = threadIdx.x % GROUP, lane = member % 32;
    const float sum = sum_warp(values);
    if (WARPS == 1) return spread(values, sum);
    if (lane % 4 == 0) scratch[member / 32 * 8 + lane / 4] = sum;
    sync_strip(strip);
    float partial[WIDTH];
    if (WARPS > 4) {
        // a lane for each warp's share; otherwise every thread adds them up for itself
        read_partial(partial, scratch + min(lane, WARPS - 1) * 8);
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) partial[j] = lane < WARPS ? partial[j] : 0.0f;
        return spread(values, sum_warp(partial));
    }
    read_partial(values, scratch);
#pragma unroll
    for (int warp = 1; warp < WARPS; ++warp) {
        read_partial(partial, scratch + warp * 8);
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) values[j] += partial[j];
    }
}

__device__ __forceinline__ void load_taps(float2 (&taps)[25], const float2* weight, int pair) {
#pragma unroll
    for (int tap = 0; tap < 25; ++tap) taps[tap] = weight[tap * PAIRS + pair];
}

// What a thread reads of its strip: seven tokens of its channels.
struct Inputs {
    Pair u[PASSES][WIDTH], gate[PASSES][WIDTH];
    unsigned short readout;  // of token `lane`: all seven would cost every thread seven registers
};

__device__ __forceinline__ Inputs read_inputs(
    const Pair* u, const Pair* gate, const unsigned short* projected, int column, int W
) {
    Inputs inputs;
    const int lane = threadIdx.x % 32;
    inputs.readout = 0;
    if (lane < WIDTH && (WHOLE || column + lane < W)) inputs.readout = projected[lane * P + P - 1];
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        const bool exists = WHOLE || column + j < W;
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            inputs.u[pass][j] = exists ? u[j * PAIRS + pass * GROUP] : 0;
            inputs.gate[pass][j] = exists ? gate[j * (GATE / 2) + pass * GROUP] : 0;
        }
    }
    return inputs;
}

// The fused states of a strip; `slot` says where in the ring a row beside the strip's own lies.
template <typename Edges>
__device__ __forceinline__ void fuse(
    float2 (&sums)[WIDTH], const Pair* strip, const int* slot, const float2 (&taps)[25], Edges
) {
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) sums[j] = make_float2(0.0f, 0.0f);
    add_row<0, Edges>(sums, strip + slot[0], taps);
    add_row<1, Edges>(sums, strip + slot[-1], taps + 7);
    add_row<1, Edges>(sums, strip + slot[1], taps + 10);
    add_row<3, Edges>(sums, strip + slot[-3], taps + 13);
    add_row<3, Edges>(sums, strip + slot[3], taps + 16);
    add_row<5, Edges>(sums, strip + slot[-5], taps + 19);
    add_row<5, Edges>(sums, strip + slot[5], taps + 22);
}

// The same, whichever strip of its row it is.
__device__ __forceinline__ void fuse(
    float2 (&sums)[WIDTH],
    const Pair* strip,
    const int* slot,
    const float2 (&taps)[25],
    bool is_first,
    bool is_last
) {
    if constexpr (ACROSS == 1) return fuse(sums, strip, slot, taps, Edges<true, true>());
    if (is_first) return fuse(sums, strip, slot, taps, Edges<true, false>());
    if (ACROSS == 2 || is_last) return fuse(sums, strip, slot, taps, Edges<false, true>());
    if constexpr (ACROSS > 2) fuse(sums, strip, slot, taps, Edges<false, false>());
}

// The observations C h + D u from the fused states h.
__device__ __forceinline__ void observe(
    float2 (&y)[WIDTH],
    const Pair (&u)[WIDTH],
    unsigned short readout,
    float2 d
) {
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        const float2 value = widen(u[j]);
        const float c = __shfl_sync(0xffffffffu, widen(readout), j);
        y[j].x = y[j].x * c + d.x * value.x;
        y[j].y = y[j].y * c + d.y * value.y;
    }
}

// Observations of all channels -> centred, and 1 / standard deviation of each token.
__device__ __forceinline__ void normalise(
    float2 (&y)[PASSES][WIDTH], float (&scale)[WIDTH], float* scratch, int strip, float eps
) {
    float sums[WIDTH];
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        sums[j] = y[0][j].x + y[0][j].y;
#pragma unroll
        for (int pass = 1; pass < PASSES; ++pass) sums[j] += y[pass][j].x + y[pass][j].y;
    }
    sum_channels(sums, scratch, strip);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        const float mean = sums[j] * (1.0f / E);
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            y[pass][j].x -= mean;
            y[pass][j].y -= mean;
            const float squares = y[pass][j].x * y[pass][j].x + y[pass][j].y * y[pass][j].y;
            sums[j] = pass == 0 ? squares : sums[j] + squares;
        }
    }
    sum_channels(sums, scratch + WARPS * 8, strip);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) scale[j] = inverse_root(sums[j] * (1.0f / E) + eps);
}

__device__ __forceinline__ void write(
    Pair* out,
    const float2 (&y)[WIDTH],
    const float (&scale)[WIDTH],
    const Pair (&gate)[WIDTH],
    float2 gain,
    float2 bias,
    int column,
    int W
) {
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        const float2 z = widen(gate[j]);
        float2 result;
        result.x = (y[j].x * scale[j] * gain.x + bias.x) * z.x;
        result.y = (y[j].y * scale[j] * gain.y + bias.y) * z.y;
        if (WHOLE || column + j < W) out[j * PAIRS] = narrow(result);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) gated_fusion(
    const Pair* __restrict__ state,  // (B, H, W, E)
    const Pair* __restrict__ u,  // (B, H, W, E)
    const unsigned short* __restrict__ projected,  // (B, H, W, P); the last column is C
    const Pair* __restrict__ gate,  // (B, H, W, E), tokens GATE elements apart
    const float2* __restrict__ weight,  // (25, E)
    const float2* __restrict__ D,  // (E,)
    const float2* __restrict__ norm_weight,  // (E,)
    const float2* __restrict__ norm_bias,  // (E,)
    Pair* __restrict__ out,  // (B, H, W, E)
    int H,
    int W,
    int rows_of_block,
    int columns_of_ring,
    float eps
) {
    extern __shared__ __align__(16) Pair rows[];
    const int strip = threadIdx.x / GROUP, member = threadIdx.x % GROUP;
    const long long image = blockIdx.z;
    const int begin = blockIdx.y * rows_of_block, end = min(begin + rows_of_block, H);
    const int tile = blockIdx.x * STRIPS * WIDTH, column = tile + strip * WIDTH;
    const int width = (W + WIDTH - 1) / WIDTH * WIDTH;
    Columns columns;
    columns.first = max(tile - REACH, 0);
    columns.count = min(tile + STRIPS * WIDTH + REACH, width) - columns.first;
    columns.last_of_map = W - 1;
    const int row_pairs = columns_of_ring * PAIRS;
    // a map with few rows has no use for all of the ring
    float* all_scratch = reinterpret_cast<float*>(rows + min(RING, H) * row_pairs);
    float* scratch = all_scratch + strip * 2 * WARPS * 8;
    // where in the ring each row lies, from the first that the taps reach, borders repeated
    int* slots = reinterpret_cast<int*>(all_scratch + STRIPS * 2 * WARPS * 8);
    for (int i = threadIdx.x; i < end - begin + 2 * REACH; i += THREADS)
        slots[i] = clamp(begin - REACH + i, H) % RING * row_pairs;
    const Pair* map = state + image * H * W * PAIRS;

    float2 taps[25];
    if (PASSES == 1) load_taps(taps, weight, member);
    await_predecessor();

    auto fetch = [&](int from, int to) {
        for (int row = max(from, 0); row < min(to, H); ++row)
            fetch_row(rows + row % RING * row_pairs, map + (long long)row * W * PAIRS, columns);
    };
    fetch(begin - REACH, begin + STEP + REACH);

#pragma unroll 1
    for (int row = begin; row < end; ++row) {
        if ((row - begin) % STEP == 0) {
            wait_for_copies();
            __syncthreads();
            const int next = row + STEP;
            if (next < end) fetch(next + REACH, next + REACH + STEP);
        }
        if (column >= W) continue;

        const long long token = (image * H + row) * W + column;
        const long long at = token * PAIRS + member;
        const Inputs inputs = read_inputs(
            u + at, gate + token * (GATE / 2) + member, projected + token * P, column, W
        );
        float2 y[PASSES][WIDTH];
        float scale[WIDTH];
        const Pair* here = rows + (column - columns.first) * PAIRS + member;
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const int pair = pass * GROUP + member;
            if (PASSES > 1) load_taps(taps, weight, pair);
            fuse(
                y[pass], here + pass * GROUP, slots + row - begin + REACH, taps, column == 0,
                column + WIDTH >= W
            );
            observe(y[pass], inputs.u[pass], inputs.readout, D[pair]);
        }
        normalise(y, scale, scratch, strip, eps);
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const int pair = pass * GROUP + member;
            write(
                out + at + pass * GROUP, y[pass], scale, inputs.gate[pass], norm_weight[pair],
                norm_bias[pair], column, W
            );
        }
    }
}
