// act(norm(x) W^T + b) for wide results: K up to 832, N a multiple of 128; compute capability 9.0.
// Where K is no multiple of 64 the copies fill up with zeros.
//
// A block owns 128 columns of the result for as long as it lives, so its part of the weight is
// read once and stays in shared memory; rows of x stream past it through a ring that one thread
// fills (TMA). Groups of warps take turns: while one multiplies its 64 x 128 tile on the tensor
// cores, the others apply norm, bias and activation to their last ones and store them.
//
// The tensor cores give a thread two neighbouring columns of every eighth. The weight's rows lie in
// shared memory in such an order that four of these pairs are neighbours, too: column 32 a + 8 q +
// 2 m + i of the result is column 32 a + 8 m + 2 q + i of the product, and thread q of a row has all
// m and i, 16 bytes, which it stores at once.
//
// Compiled at run time for each shape (see cuda_fwd.py), which defines
//   K, N        of the product
//   STAGES      of the ring
//   CONSUMERS   groups of warps that multiply
//   NORM        1: rows are normalised; the LayerNorm is applied after the product
//   SHIFT       1: with NORM, rows carry an offset that is not normalised
//   ACTIVATION  0 none, 1 ReLU, 2 GELU, 3 SiLU of the second half of the columns
//   BFLOAT      1: values are bfloat16, 0: float16

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short Half;  // its bits
constexpr int ROWS = 64;  // of a tile
constexpr int COLUMNS = 128;
constexpr int DEPTH = 64;  // of a block of K: 128 bytes, what one swizzled row holds
constexpr int BLOCKS = (K + DEPTH - 1) / DEPTH;
constexpr int COLUMN_TILES = N / COLUMNS;
constexpr u32 BOX = ROWS * DEPTH * 2;  // bytes of the rows of a tile, 64 deep
constexpr u32 WEIGHT_BOX = COLUMNS * DEPTH * 2;
constexpr int GROUP = 128;  // threads
constexpr int LAUNCHED = 65536 / (GROUP * (1 + CONSUMERS)) / 8 * 8;  // registers of each thread
constexpr int PRODUCERS_REST = 24;  // what the group that multiplies nothing keeps of them

struct __align__(64) TensorMap { char opaque[128]; };
struct __align__(16) Eight { u32 pairs[4]; };  // values

#ifdef ON_A_CPU  // the tests run the kernel there
#include "on_a_cpu.hpp"
#else
#include "machine.cuh"
#endif

// As in kernels/triton_math.py. An infinite power is right: its reciprocal is zero.
__device__ __forceinline__ float activate(float x, bool is_second_half) {
    if (ACTIVATION == 1) return x < 0.0f ? 0.0f : x;  // not max(): NaN must stay visible
    if (ACTIVATION == 2) {
        const float square = fminf(x * x, 50.0f);
        float z = square * 0.0010142630198970437f - 0.10677572339773178f;
        z = x * (z * square - 2.301121234893799f);
        return x * reciprocal(1.0f + power_of_two(z));
    }
    if (ACTIVATION == 3 && is_second_half)
        return x * reciprocal(1.0f + power_of_two(x * -1.4426950408889634f));
    return x;
}

struct Row {
    float mean, scale;
};

__device__ __forceinline__ Row statistics_of(const float* statistics, int row, int M) {
    if (!NORM || row >= M) return {0.0f, 1.0f};
    return {statistics[row], statistics[M + row]};
}

// What a block adds to its columns and takes away from them, two columns at a time.
struct Columns {
    float2 *bias, *colsum, *shift;  // in shared memory
};

// 64 x 128 sums -> values, from `out` on, the thread's first column of its first row.
__device__ __forceinline__ void finish(
    const float (&sums)[64],
    const Columns& own,
    const Row (&rows)[2],
    int column,  // first of the block
    Half* out,
    int left  // rows from the thread's first one to the end
) {
#pragma unroll
    for (int a = 0; a < 4; ++a) {
        const bool is_second_half = column + a / 2 * 64 >= N / 2;
        Eight values[2];
#pragma unroll
        for (int m = 0; m < 4; ++m) {
            const int at = a * 16 + threadIdx.x % 4 * 4 + m;
            const float2 b = own.bias[at];
            float2 c, s;
            if (NORM) c = own.colsum[at];
            if (SHIFT) s = own.shift[at];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                float low = sums[16 * a + 4 * m + 2 * i], high = sums[16 * a + 4 * m + 2 * i + 1];
                if (NORM) {
                    if (SHIFT) {
                        low -= s.x;
                        high -= s.y;
                    }
                    low = (low - rows[i].mean * c.x) * rows[i].scale;
                    high = (high - rows[i].mean * c.y) * rows[i].scale;
                }
                values[i].pairs[m] = narrow(
                    activate(low + b.x, is_second_half), activate(high + b.y, is_second_half)
                );
            }
        }
#pragma unroll
        for (int i = 0; i < 2; ++i)
            if (8 * i < left) *reinterpret_cast<Eight*>(out + 8 * i * N + 32 * a) = values[i];
    }
}

// The ring's place of block number `index` of all that pass through it, and the parity of its turn.
struct Turn {
    u32 stage, parity;
};

__device__ __forceinline__ Turn turn_of(int index) {
    return {static_cast<u32>(index % STAGES), static_cast<u32>(index / STAGES % 2)};
}

// Where everything lies in shared memory.
struct Layout {
    u32 weight, ring;
    u32 full, empty;  // a barrier for each stage of the ring
    u32 weight_ready;
    u32 may_multiply;  // a barrier for each group of consumers
};

// Where this block works: its columns, and which tiles of rows.
struct Share {
    int column, first, step, tiles;
};

// One thread: the weight, then rows as the consumers make room for them.
__device__ __forceinline__ void produce(
    const Layout& at, const Share& share, const TensorMap& x_map, const TensorMap& weight_map
) {
    expect_bytes(at.weight_ready, BLOCKS * WEIGHT_BOX);
    for (int block = 0; block < BLOCKS; ++block) {
        const u32 to = at.weight + block * WEIGHT_BOX;
        load_box(to, weight_map, block * DEPTH, 0, 0, 0, share.column / 32, at.weight_ready);
    }
    await_predecessor();
    int index = 0;
    for (int tile = share.first; tile < share.tiles; tile += share.step)
        for (int block = 0; block < BLOCKS; ++block, ++index) {
            const Turn turn = turn_of(index);
            wait(at.empty + 8 * turn.stage, turn.parity ^ 1);  // at first all are empty
            const u32 barrier = at.full + 8 * turn.stage;
            expect_bytes(barrier, BOX);
            load_box(at.ring + turn.stage * BOX, x_map, block * DEPTH, tile * ROWS, barrier);
        }
}

// Once for a warp.
__device__ __forceinline__ void signal(u32 barrier) {
    if (threadIdx.x % 32 == 0) arrive(barrier);
}

// The sums of one tile, whose rows come as number `turns` of this block's tiles.
__device__ __forceinline__ void multiply_tile(
    float (&sums)[64], const Layout& at, int turns, int group
) {
    // one group multiplies at a time: nobody may wait for a turn of the ring before the turn
    // before it has come, which a barrier could not tell from it
    wait(at.may_multiply + 8 * group, turns / CONSUMERS % 2);
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) {
        const Turn turn = turn_of(turns * BLOCKS + block);
        wait(at.full + 8 * turn.stage, turn.parity);
        const u64 a = describe(at.ring + turn.stage * BOX);
        const u64 b = describe(at.weight + block * WEIGHT_BOX);
        begin_products();
#pragma unroll
        for (int k = 0; k < DEPTH / 16; ++k)  // 32 bytes, in units of 16
            multiply(sums, a + 2 * k, b + 2 * k, block + k);
        commit_products();
        if (block > 0) {
            wait_for_products<1>();
            signal(at.empty + 8 * turn_of(turns * BLOCKS + block - 1).stage);
        }
    }
    signal(at.may_multiply + 8 * ((group + 1) % CONSUMERS));
    wait_for_products<0>();
    signal(at.empty + 8 * turn_of(turns * BLOCKS + BLOCKS - 1).stage);
}

extern "C" __global__ void __launch_bounds__(GROUP*(1 + CONSUMERS), 1) wide_product(
    const __grid_constant__ TensorMap x_map,  // (M, K)
    const __grid_constant__ TensorMap weight_map,  // (N / 32, m 4, q 4, i 2, K)
    Half* __restrict__ out,  // (M, N)
    const float* __restrict__ bias,  // (N,)
    const float* __restrict__ colsum,  // (N,), read with NORM
    const float* __restrict__ statistics,  // (2, M), read with NORM
    const float* __restrict__ shift,  // (N,), read with SHIFT
    int M
) {
    extern __shared__ char memory[];
    const u32 begin = shared_address(memory);
    Layout at;
    at.weight = (begin + 1023) / 1024 * 1024;  // as the swizzle wants it
    at.ring = at.weight + BLOCKS * WEIGHT_BOX;
    const u32 rest = at.ring + STAGES * BOX - begin;
    Columns own;
    own.bias = reinterpret_cast<float2*>(memory + rest);
    own.colsum = own.bias + COLUMNS / 2;
    own.shift = own.colsum + COLUMNS / 2;
    at.full = shared_address(own.shift + COLUMNS / 2);
    at.empty = at.full + 8 * STAGES;
    at.weight_ready = at.full + 16 * STAGES;
    at.may_multiply = at.weight_ready + 8;

    Share share;
    share.column = blockIdx.x % COLUMN_TILES * COLUMNS;
    share.first = blockIdx.x / COLUMN_TILES;
    share.step = gridDim.x / COLUMN_TILES;
    share.tiles = (M + ROWS - 1) / ROWS;

    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            init_barrier(at.full + 8 * i, 1);
            init_barrier(at.empty + 8 * i, 4);  // the warps of a group
        }
        init_barrier(at.weight_ready, 1);
        for (int i = 0; i < CONSUMERS; ++i) init_barrier(at.may_multiply + 8 * i, 4);
        publish_barriers();
    }
    if (threadIdx.x < COLUMNS) {
        const int column = share.column + threadIdx.x;
        reinterpret_cast<float*>(own.bias)[threadIdx.x] = bias[column];
        if (NORM) reinterpret_cast<float*>(own.colsum)[threadIdx.x] = colsum[column];
        if (SHIFT) reinterpret_cast<float*>(own.shift)[threadIdx.x] = shift[column];
    }
    __syncthreads();

    // registers go where they are needed
    if (threadIdx.x < GROUP) {
        give_registers<PRODUCERS_REST>();
        if (threadIdx.x == 0) produce(at, share, x_map, weight_map);
    } else {
        take_registers<(LAUNCHED * (1 + CONSUMERS) - PRODUCERS_REST) / CONSUMERS / 8 * 8>();
        const int group = threadIdx.x / GROUP - 1;
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
        wait(at.weight_ready, 0);
        await_predecessor();
        if (group == CONSUMERS - 1) signal(at.may_multiply);
        for (int turns = group;; turns += CONSUMERS) {
            const int tile = share.first + turns * share.step;
            if (tile >= share.tiles) break;
            const int row = tile * ROWS + warp * 16 + lane / 4;
            const Row rows[2] = {
                statistics_of(statistics, row, M), statistics_of(statistics, row + 8, M)
            };
            float sums[64];
            multiply_tile(sums, at, turns, group);
            Half* const to = out + static_cast<long long>(row) * N + share.column + lane % 4 * 8;
            finish(sums, own, rows, share.column, to, M - row);
        }
    }
}
