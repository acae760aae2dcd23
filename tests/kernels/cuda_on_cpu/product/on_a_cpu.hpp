// `machine.cuh` of the product, for a CPU: shared memory is an array, whose places are numbers.

#pragma once

#include <condition_variable>
#include <mutex>

alignas(1024) inline char memory[232448];

inline u32 shared_address(const void* pointer) {
    return static_cast<u32>(static_cast<const char*>(pointer) - memory);
}

// ---- barriers that count arrivals and bytes

struct Arrivals {
    std::mutex mutex;
    std::condition_variable changed;
    u32 expected = 0, missing = 0, phase = 0;
    long long bytes = 0;

    void change(u32 arrived, long long more_bytes) {
        std::lock_guard lock(mutex);
        missing -= arrived;
        bytes += more_bytes;
        if (missing == 0 && bytes == 0) {
            missing = expected;
            ++phase;
            changed.notify_all();
        }
    }
};

inline Arrivals& arrivals_at(u32 barrier) {
    static std::vector<Arrivals> all(sizeof(memory) / 8);
    return all[barrier / 8];
}

inline void init_barrier(u32 barrier, u32 arrivals) {
    Arrivals& own = arrivals_at(barrier);
    own.expected = own.missing = arrivals;
    own.phase = 0, own.bytes = 0;
}

// the bytes first: the arrival must not end a phase that still waits for them
inline void expect_bytes(u32 barrier, u32 bytes) { arrivals_at(barrier).change(1, bytes); }
inline void arrive(u32 barrier) { arrivals_at(barrier).change(1, 0); }

inline void wait(u32 barrier, u32 parity) {
    Arrivals& own = arrivals_at(barrier);
    std::unique_lock lock(own.mutex);
    own.changed.wait(lock, [&] { return own.phase % 2 != parity; });
}

inline void sync_group(int group) { groups[group + 1]->barrier.arrive_and_wait(); }

// ---- the copy engine

// What the tests put into the map of a matrix.
struct Matrix {
    std::uint16_t* values;
    int rows, columns, rows_of_box;
};

inline Matrix matrix_of(const TensorMap& map) {
    Matrix matrix;
    std::memcpy(&matrix, map.opaque, sizeof(Matrix));
    return matrix;
}

// The 16 bytes of a row of 128 lie in another order in each of eight rows.
inline u32 swizzle(u32 address) { return address ^ (address >> 7 & 7) << 4; }

inline void load_box(u32 shared, const TensorMap& map, int column, int row, u32 barrier) {
    const Matrix matrix = matrix_of(map);
    for (int r = 0; r < matrix.rows_of_box; ++r)
        for (int c = 0; c < 64; ++c) {
            const bool exists = row + r < matrix.rows && column + c < matrix.columns;
            const std::size_t at = std::size_t(row + r) * matrix.columns + column + c;
            const std::uint16_t value = exists ? matrix.values[at] : 0;
            std::memcpy(memory + swizzle(shared + r * 128 + c * 2), &value, 2);
        }
    arrivals_at(barrier).change(0, -matrix.rows_of_box * 128);
}

inline void store_box(const TensorMap& map, int column, int row, u32 shared) {
    const Matrix matrix = matrix_of(map);
    for (int r = 0; r < matrix.rows_of_box && row + r < matrix.rows; ++r)
        for (int c = 0; c < 64; ++c) {
            const std::size_t at = std::size_t(row + r) * matrix.columns + column + c;
            std::memcpy(&matrix.values[at], memory + swizzle(shared + r * 128 + c * 2), 2);
        }
}

inline void commit_stores() {}
template <int PENDING>
void wait_for_stores() {}

// ---- tensor cores: each thread computes the sums that it would hold

inline u64 describe(u32 shared) { return shared >> 4; }

inline float operand(u64 description, int row, int k) {
    std::uint16_t bits;
    std::memcpy(&bits, memory + swizzle(u32(description << 4) + row * 128 + k * 2), 2);
    return widen_half(bits);
}

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

// these keep the lanes of a warp together, on which the barriers' users rely
inline void begin_products() { __syncwarp(); }
inline void commit_products() { __syncwarp(); }
template <int PENDING>
void wait_for_products() {
    __syncwarp();
}

// ---- the rest

inline float power_of_two(float x) { return std::exp2(x); }
inline float reciprocal(float x) { return 1.0f / x; }

inline u32 narrow(float low, float high) {
    return narrow_half(low) | static_cast<u32>(narrow_half(high)) << 16;
}

// Four matrices of 8 x 8; lane 8 i + j gives the address of row j of matrix i.
inline void store_matrices(u32 shared, const u32 (&pairs)[4]) {
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; ++i) {
        const u32 row = __shfl_sync(0xffffffffu, shared, 8 * i + lane / 4);
        std::memcpy(memory + row + lane % 4 * 4, &pairs[i], 4);
    }
}

inline void publish_barriers() {}
inline void publish_values() {}
template <int COUNT>
void give_registers() {}
template <int COUNT>
void take_registers() {}
