// ReLU of a depthwise 3x3 convolution, stride 2, of relu(x W^T + b); compute capability 9.0. The map
// in between, eight times as wide as x, never leaves the registers.
//
// The product comes turned: channels are the rows of a tile on the tensor cores, positions along a
// row of the map its columns. So a thread holds two channels, whose taps stay in its registers, and
// of each channel pairs of an even position and the odd one after it. What an answer needs besides,
// the odd position before, another lane of the thread's four has. The weight stays in registers,
// too. A group of warps owns 64 channels and walks down the map, row by row; unfinished answers wait
// in registers for the row below. While it works on one row, the tensor cores multiply the next.
//
// Compiled at run time for each kind of map (see cuda_fwd.py), which defines
//   C, N        channels of x and of the answer
//   P, UNITS    positions of a unit, which is a stretch of a row; units side by side in a tile
//   HALO        1: rows are longer than a unit; units overlap by two positions
//   ODD         1: the map has an odd number of columns
//   STAGES      of the ring through which rows come
//   BFLOAT      1: values are bfloat16, 0: float16

typedef unsigned int u32;
typedef unsigned long long u64;
constexpr int GROUPS = 2;  // of warps that multiply
constexpr int GROUP = 128;  // threads
constexpr int CHANNELS = 64;  // of a group
constexpr int COLUMN_TILES = N / (GROUPS * CHANNELS);
constexpr int WIDTH = P * UNITS;  // of a tile, in positions
constexpr int SUMS = WIDTH / 2;  // that a thread holds of a row: two channels
constexpr int PAIRS = WIDTH / 8;  // of positions that a thread holds
constexpr int DEPTH = 64;  // channels of x whose 128 bytes a swizzled row holds
constexpr int BLOCKS = (C + DEPTH - 1) / DEPTH;
constexpr u32 BLOCK_BYTES = WIDTH * DEPTH * 2;
constexpr int ANSWERS = P / 2;  // of a unit; with a halo the first one is its neighbour's
constexpr int STAGED = (WIDTH / 2 + 7) / 8 * 8;  // answers, of which some may be unused
constexpr u32 STAGING_BYTES = STAGED * CHANNELS * 2;
// answers go there 16 at a time; more would reach into what another group or barrier owns
static_assert((PAIRS + 3) / 4 * 16 <= STAGED, "a tile of this width does not fill its staging");

struct __align__(64) TensorMap { char opaque[128]; };

#ifdef ON_A_CPU  // the tests run the kernel there
#include "on_a_cpu.hpp"
#else
#include "machine.cuh"
#endif

// The batch, and how it is cut: rows into `tiles` units, columns into `strips` of so many answers.
struct Maps {
    int images, H, W, tiles, strips, rows;
};

// What a group of warps does in one go: units side by side, and rows of the answer.
struct Task {
    int unit, top, bottom;
};

__device__ __forceinline__ int count_tasks(const Maps& maps) {
    return (maps.images * maps.tiles + UNITS - 1) / UNITS * maps.strips;
}

__device__ __forceinline__ Task task_of(const Maps& maps, int number) {
    const int top = number % maps.strips * maps.rows;
    return {number / maps.strips * UNITS, top, min(top + maps.rows, (maps.H + 1) / 2)};
}

// Rows of the map that a task needs.
__device__ __forceinline__ int first_row(const Task& task) { return max(2 * task.top - 1, 0); }
__device__ __forceinline__ int end_row(const Task& task, const Maps& maps) {
    return min(2 * task.bottom, maps.H);
}

// Where a unit begins. Units past the last one repeat it and are not written.
struct Place {
    int image, column, answer;
    bool exists;
};

__device__ __forceinline__ Place place_of(const Maps& maps, int unit) {
    const int units = maps.images * maps.tiles, own = min(unit, units - 1);
    const int tile = own % maps.tiles;
    return {own / maps.tiles, HALO ? tile * (P - 2) - 2 : 0, tile * (ANSWERS - HALO), unit < units};
}

// The ring's place of row number `index` of all that pass through it, and the parity of its turn.
struct Turn {
    u32 stage, parity;
};

__device__ __forceinline__ Turn turn_of(int index) {
    return {static_cast<u32>(index % STAGES), static_cast<u32>(index / STAGES % 2)};
}

// Where everything lies in shared memory.
struct Layout {
    u32 ring, staging;
    u32 full, empty;  // a barrier for each stage of the ring
};

// One thread: rows, as those who multiply make room for them.
__device__ __forceinline__ void produce(
    const Layout& at, const Maps& maps, const TensorMap& x_map, int first, int step
) {
    await_predecessor();
    int index = 0;
    for (int number = first; number < count_tasks(maps); number += step) {
        const Task task = task_of(maps, number);
        for (int row = first_row(task); row < end_row(task, maps); ++row, ++index) {
            const Turn turn = turn_of(index);
            wait(at.empty + 8 * turn.stage, turn.parity ^ 1);  // at first all are empty
            const u32 barrier = at.full + 8 * turn.stage;
            expect_bytes(barrier, BLOCKS * BLOCK_BYTES);
            u32 to = at.ring + turn.stage * BLOCKS * BLOCK_BYTES;
            for (int block = 0; block < BLOCKS; ++block)
                for (int i = 0; i < UNITS; ++i, to += P * DEPTH * 2) {
                    const Place place = place_of(maps, task.unit + i);
                    load_box(
                        to, x_map, block * DEPTH, place.column, place.image * maps.H + row, barrier
                    );
                }
        }
    }
}

// A thread's part of the weights, of two channels.
struct Weights {
    u32 product[C / 16][4];
    float bias[2], taps[9][2], shift[2];
};

__device__ __forceinline__ void load_weights(
    Weights& own,
    int channel,  // the first of the two, which are eight apart
    const u32* __restrict__ weight,
    const float* __restrict__ bias,
    const float* __restrict__ taps,
    const float* __restrict__ shift
) {
    const int quarter = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int n = channel + 8 * half;
#pragma unroll
        for (int k = 0; k < C / 16; ++k) {
            const u32* pairs = weight + (n * C + 16 * k) / 2 + quarter;
            own.product[k][half] = pairs[0];
            own.product[k][half + 2] = pairs[4];
        }
        own.bias[half] = bias[n];
        own.shift[half] = shift[n];
#pragma unroll
        for (int tap = 0; tap < 9; ++tap) own.taps[tap][half] = taps[tap * N + n];
    }
}

// What a group of warps needs of a task.
struct Stretch {
    int column[UNITS];  // where its units begin
    int W;
};

// `use(half, pair, left, middle, right)` of all answers whose three values lie in this row.
template <typename Use>
__device__ __forceinline__ void for_each_answer(
    const float (&sums)[SUMS], const Weights& own, const Stretch& stretch, Use use
) {
    const int quarter = threadIdx.x % 4, from = (threadIdx.x % 32 & ~3) | (quarter + 3) % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float before = 0.0f;
#pragma unroll
        for (int pair = 0; pair < PAIRS; ++pair) {
            const int unit = pair / (P / 8), in_unit = pair % (P / 8);
            const int column = stretch.column[unit] + 8 * in_unit + 2 * quarter;
            const float middle = relu(sums[4 * pair + 2 * half] + own.bias[half]);
            float right = relu(sums[4 * pair + 2 * half + 1] + own.bias[half]);
            // the map is surrounded by zeros; what is multiplied there is not zero for its bias
            if (ODD && column + 1 >= stretch.W) right = 0.0f;
            if (HALO && in_unit == 0 && column < 0) right = 0.0f;
            if (in_unit == 0) before = 0.0f;
            const float left = __shfl_sync(0xffffffffu, quarter == 3 ? before : right, from);
            before = right;
            use(half, pair, left, middle, right);
        }
    }
}

// Which row of the staging an answer of the tile goes to: a unit's own ones come first.
__device__ __forceinline__ int staged_row(int answer) {
    if (!HALO || answer >= WIDTH / 2) return answer;
    return answer / ANSWERS * ANSWERS + (answer + ANSWERS - 1) % ANSWERS;
}

// A row of answers: through shared memory to the result.
__device__ __forceinline__ void send(
    const float (&answers)[2][PAIRS],
    const Maps& maps,
    const Task& task,
    const TensorMap& out_map,
    int row,
    int channel,  // first of the group
    int group,
    u32 staging
) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const bool is_first_thread = threadIdx.x % GROUP == 0;
    // the store before the last one has read this half of the staging
    if (is_first_thread) wait_for_stores<1>();
    sync_group(group);
#pragma unroll
    for (int pair = 0; pair < PAIRS; pair += 4) {
        u32 values[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int own = pair + i / 2 * 2;
            const float low = own < PAIRS ? answers[i % 2][own] : 0.0f;
            const float high = own + 1 < PAIRS ? answers[i % 2][own + 1] : 0.0f;
            values[i] = narrow(low, high);
        }
        // the matrix and its column whose address this lane gives to `store_turned`
        const int matrix = lane / 8, column = lane % 8;
        const int at = staged_row(4 * (pair + matrix / 2 * 2 + column % 2) + column / 2);
        const int chunk = (2 * warp + matrix % 2) ^ (at % 8);  // of eight channels, swizzled
        store_turned(staging + at * 128 + chunk * 16, values);
    }
    publish_values();
    sync_group(group);
    if (is_first_thread) {
#pragma unroll
        for (int i = 0; i < UNITS; ++i) {
            const Place place = place_of(maps, task.unit + i);
            const u32 from = staging + i * ANSWERS * 128;
            if (place.exists)
                store_box(
                    out_map, channel, place.answer, place.image * ((maps.H + 1) / 2) + row, from
                );
        }
        commit_stores();
    }
}

// Once for a warp.
__device__ __forceinline__ void signal(u32 barrier) {
    if (threadIdx.x % 32 == 0) arrive(barrier);
}

// Has row number `index` of the ring multiplied; the sums are there after `finish`.
__device__ __forceinline__ void multiply_row(
    float (&sums)[SUMS], const Weights& own, const Layout& at, int index
) {
    const Turn turn = turn_of(index);
    wait(at.full + 8 * turn.stage, turn.parity);
    begin_products();
#pragma unroll
    for (int k = 0; k < C / 16; ++k) {
        const u32 block = at.ring + (turn.stage * BLOCKS + k / 4) * BLOCK_BYTES;
        // 32 bytes, in units of 16
        multiply(sums, own.product[k], describe(block) + k % 4 * 2, k);
    }
    commit_products();
}

__device__ __forceinline__ void finish(const Layout& at, int index) {
    wait_for_products<0>();
    signal(at.empty + 8 * turn_of(index).stage);
}

// One thread's share of all tasks of its block.
__device__ __forceinline__ void consume(
    const Weights& own,
    const Layout& at,
    const Maps& maps,
    const TensorMap& out_map,
    int channel,
    int first,
    int step
) {
    const int group = threadIdx.x / GROUP - 1;
    const u32 staging = at.staging + group * 2 * STAGING_BYTES;
    float even[SUMS], odd[SUMS];  // of rows 2 i and 2 i + 1
    float total[2][PAIRS];  // of answers, what has come so far
    int index = 0, sent = 0;
    for (int number = first; number < count_tasks(maps); number += step) {
        const Task task = task_of(maps, number);
        Stretch stretch;
#pragma unroll
        for (int i = 0; i < UNITS; ++i) stretch.column[i] = place_of(maps, task.unit + i).column;
        stretch.W = maps.W;
        const auto above = [&](int half, int pair, float left, float middle, float right) {
            total[half][pair] = own.shift[half] + own.taps[0][half] * left +
                                own.taps[1][half] * middle + own.taps[2][half] * right;
        };
        const auto beside = [&](int half, int pair, float left, float middle, float right) {
            total[half][pair] += own.taps[3][half] * left + own.taps[4][half] * middle +
                                 own.taps[5][half] * right;
        };
        const auto send_row = [&](const float (&answers)[2][PAIRS], int row) {
            const u32 half = staging + sent++ % 2 * STAGING_BYTES;
            send(answers, maps, task, out_map, row, channel, group, half);
        };
        // below this row of answers, and above the next one
        const auto end_answers = [&](int row) {
            float answers[2][PAIRS];
            for_each_answer(
                odd,
                own,
                stretch,
                [&](int half, int pair, float left, float middle, float right) {
                    answers[half][pair] =
                        relu(total[half][pair] + own.taps[6][half] * left +
                             own.taps[7][half] * middle + own.taps[8][half] * right);
                    above(half, pair, left, middle, right);
                }
            );
            send_row(answers, row);
        };
        if (task.top > 0) {
            multiply_row(odd, own, at, index);
            finish(at, index++);
            for_each_answer(odd, own, stretch, above);
        } else {
#pragma unroll
            for (int i = 0; i < 2 * PAIRS; ++i) total[i % 2][i / 2] = own.shift[i % 2];
        }
        multiply_row(even, own, at, index);
        for (int row = task.top; row + 1 < task.bottom; ++row) {
            finish(at, index++);
            multiply_row(odd, own, at, index);
            for_each_answer(even, own, stretch, beside);
            finish(at, index++);
            multiply_row(even, own, at, index);
            end_answers(row);
        }
        finish(at, index++);
        if (2 * task.bottom <= maps.H) {
            multiply_row(odd, own, at, index);
            for_each_answer(even, own, stretch, beside);
            finish(at, index++);
            end_answers(task.bottom - 1);
        } else {  // no row below
            for_each_answer(even, own, stretch, beside);
#pragma unroll
            for (int i = 0; i < 2 * PAIRS; ++i) total[i % 2][i / 2] = relu(total[i % 2][i / 2]);
            send_row(total, task.bottom - 1);
        }
    }
}

extern "C" __global__ void __launch_bounds__(GROUP*(1 + GROUPS), 1) expand_downsample(
    const __grid_constant__ TensorMap x_map,  // (images H, W, C)
    const __grid_constant__ TensorMap out_map,  // (images ceil(H / 2), ceil(W / 2), N)
    const u32* __restrict__ weight,  // (N, C), two values each
    const float* __restrict__ bias,  // (N,)
    const float* __restrict__ taps,  // (9, N)
    const float* __restrict__ shift,  // (N,), bias of the convolution
    int images,
    int H,
    int W,
    int tiles,
    int strips,
    int rows
) {
    extern __shared__ char memory[];
    const Maps maps = {images, H, W, tiles, strips, rows};
    Layout at;
    at.ring = (shared_address(memory) + 1023) / 1024 * 1024;  // as the swizzle wants it
    at.staging = at.ring + STAGES * BLOCKS * BLOCK_BYTES;
    at.full = at.staging + GROUPS * 2 * STAGING_BYTES;
    at.empty = at.full + 8 * STAGES;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            init_barrier(at.full + 8 * i, 1);
            init_barrier(at.empty + 8 * i, 4 * GROUPS);  // the warps of all groups
        }
        publish_barriers();
    }
    __syncthreads();

    const int first = blockIdx.x / COLUMN_TILES, step = gridDim.x / COLUMN_TILES;
    // registers go where they are needed
    if (threadIdx.x < GROUP) {
        give_registers<40>();
        if (threadIdx.x == 0) produce(at, maps, x_map, first, step);
    } else {
        take_registers<232>();
        const int group = threadIdx.x / GROUP - 1;
        const int channel = (blockIdx.x % COLUMN_TILES * GROUPS + group) * CHANNELS;
        const int in_group = threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
        Weights own;
        load_weights(own, channel + in_group, weight, bias, taps, shift);
        await_predecessor();
        consume(own, at, maps, out_map, channel, first, step);
        if (threadIdx.x % GROUP == 0) wait_for_stores<0>();
    }
}
