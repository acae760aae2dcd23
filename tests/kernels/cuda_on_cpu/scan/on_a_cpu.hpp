// `machine.cuh` of the selective scan, for a CPU.

#pragma once

#include <array>
#include <deque>

#include "hopper.hpp"

template <typename Value>
void keep(Value&) {}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, int distance, int width) {
    const int lane = threadIdx.x % 32;
    return __shfl_sync(mask, value, lane % width >= distance ? lane - distance : lane);
}

inline u32 __byte_perm(u32 low, u32 high, u32 selector) {
    const u64 bytes = low | static_cast<u64>(high) << 32;
    u32 chosen = 0;
    for (int i = 0; i < 4; ++i) chosen |= (bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
    return chosen;
}

inline void compose_if(bool is_to_be, float& state, float& decay, float before, float reach) {
    if (!is_to_be) return;
    state += decay * before;
    decay *= reach;
}

// A thread's copies, in groups; they happen as late as they may.
struct Copy {
    u32 shared;
    const void* global;
    int space, bytes;
};
inline thread_local std::deque<std::vector<Copy>> copies(1);

template <int BYTES>
void copy_async(u32 shared, const void* global, int bytes) {
    copies.back().push_back({shared, global, BYTES, bytes});
}

inline void commit_copies() { copies.emplace_back(); }

template <int PENDING>
void wait_for_copies() {
    for (; copies.size() > PENDING + 1; copies.pop_front())
        for (const Copy& copy : copies.front()) {
            std::memset(memory + copy.shared, 0, copy.space);
            std::memcpy(memory + copy.shared, copy.global, copy.bytes);
        }
}

inline void load_turned(u32 (&pairs)[4], u32 shared) {
    const int lane = threadIdx.x % 32;
    exchange(shared, [&](const u32* columns) {
        for (int i = 0; i < 4; ++i) {
            std::uint16_t values[2];
            for (int j = 0; j < 2; ++j)
                std::memcpy(
                    &values[j], memory + columns[8 * i + lane % 4 * 2 + j] + lane / 4 * 2, 2
                );
            pairs[i] = values[0] | static_cast<u32>(values[1]) << 16;
        }
    });
}

inline float half_of(u32 pair, int which) { return widen_half(pair >> 16 * which & 0xffff); }

inline void multiply(float (&sums)[4], const u32 (&a)[2], u32 b, const float (&c)[4]) {
    const int lane = threadIdx.x % 32;
    exchange(std::array{a[0], a[1], b}, [&](const std::array<u32, 3>* lanes) {
        for (int i = 0; i < 4; ++i) {
            const int column = lane % 4 * 2 + i % 2;
            float sum = c[i];
            for (int k = 0; k < 8; ++k)
                sum += half_of(lanes[lane / 4 * 4 + k / 2][i / 2], k % 2) *
                       half_of(lanes[column * 4 + k / 2][2], k % 2);
            sums[i] = sum;
        }
    });
}

inline void multiply(
    float (&sums)[4], const u32 (&a)[2], const u32 (&more)[2], u32 b, u32 more_b,
    const float (&c)[4]
) {
    float first[4];
    multiply(first, a, b, c);
    multiply(sums, more, more_b, first);
}
