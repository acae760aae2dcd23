// Enough of CUDA in plain C++ to run our kernels on a CPU: a thread of the block is a thread of the
// machine, barriers and exchanges between lanes wait for all of theirs. Blocks run in turns.

#pragma once

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __shared__
#define __restrict__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(threads, blocks)
#define __align__(bytes) __attribute__((aligned(bytes)))

using std::max;
using std::min;

struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};
struct Index {
    int x, y, z;
};

inline float2 make_float2(float x, float y) { return {x, y}; }

inline thread_local Index threadIdx;
inline Index blockIdx, gridDim;

struct Team {
    explicit Team(int size) : barrier(size), given(size) {}
    std::barrier<> barrier;
    std::vector<std::uint64_t> given;
};

inline std::unique_ptr<Team> whole_block;
inline std::vector<std::unique_ptr<Team>> warps, groups;

inline void __syncthreads() { whole_block->barrier.arrive_and_wait(); }

inline void await_predecessor() {}  // kernels run one after the other here

inline void __syncwarp() { warps[threadIdx.x / 32]->barrier.arrive_and_wait(); }

template <typename T>
T __shfl_sync(unsigned, T value, int from) {
    Team& warp = *warps[threadIdx.x / 32];
    std::memcpy(&warp.given[threadIdx.x % 32], &value, sizeof(T));
    warp.barrier.arrive_and_wait();
    T got;
    std::memcpy(&got, &warp.given[from], sizeof(T));
    warp.barrier.arrive_and_wait();
    return got;
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
    return __shfl_sync(mask, value, threadIdx.x % 32 ^ distance);
}

inline float widen_half(std::uint16_t bits) {
    _Float16 half;
    std::memcpy(&half, &bits, 2);
    return static_cast<float>(half);
}

inline std::uint16_t narrow_half(float value) {
    const _Float16 half = static_cast<_Float16>(value);
    std::uint16_t bits;
    std::memcpy(&bits, &half, 2);
    return bits;
}

// Runs `block` for every block of the grid, by as many threads as it has.
template <typename Block>
void run_grid(Index grid, int threads, int threads_of_group, Block block) {
    gridDim = grid;
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
                whole_block = std::make_unique<Team>(threads);
                warps.clear(), groups.clear();
                for (int i = 0; i < threads / 32; ++i) warps.push_back(std::make_unique<Team>(32));
                for (int i = 0; i < threads / threads_of_group; ++i)
                    groups.push_back(std::make_unique<Team>(threads_of_group));
                std::vector<std::thread> running;
                for (int i = 0; i < threads; ++i)
                    running.emplace_back([&, i] {
                        threadIdx = {i, 0, 0};
                        block();
                    });
                for (auto& thread : running) thread.join();
            }
}
