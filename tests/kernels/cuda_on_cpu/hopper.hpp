// `hopper.cuh` for a CPU: shared memory is an array, whose places are numbers.

#pragma once

#include <atomic>

alignas(1024) inline char memory[232448];

inline u32 shared_address(const void* pointer) {
    return static_cast<u32>(static_cast<const char*>(pointer) - memory);
}

// ---- barriers that count arrivals and bytes

// Those who arrive are ordered with those who wait for them, not among themselves: what else a race
// detector would take for order, the hardware does not give.
struct Arrivals {
    std::atomic<long long> pending{0};  // arrivals, times 2^32, and bytes
    std::atomic<u32> phase{0};
    long long expected = 0;

    void change(u32 arrived, long long more_bytes) {
        const long long change = more_bytes - (static_cast<long long>(arrived) << 32);
        if (pending.fetch_add(change, std::memory_order_release) + change != 0) return;
        pending.load(std::memory_order_acquire);  // the last one passes on what all have seen
        pending.store(expected, std::memory_order_relaxed);
        phase.fetch_add(1, std::memory_order_release);
        phase.notify_all();
    }
};

inline Arrivals& arrivals_at(u32 barrier) {
    static std::vector<Arrivals> all(sizeof(memory) / 8);
    return all[barrier / 8];
}

inline void init_barrier(u32 barrier, u32 arrivals) {
    Arrivals& own = arrivals_at(barrier);
    own.expected = static_cast<long long>(arrivals) << 32;
    own.pending = own.expected;
    own.phase = 0;
}

// the bytes with the arrival: it must not end a phase that still waits for them
inline void expect_bytes(u32 barrier, u32 bytes) { arrivals_at(barrier).change(1, bytes); }
inline void arrive(u32 barrier) { arrivals_at(barrier).change(1, 0); }

inline void wait(u32 barrier, u32 parity) {
    std::atomic<u32>& phase = arrivals_at(barrier).phase;
    for (u32 now; (now = phase.load(std::memory_order_acquire)) % 2 == parity;) phase.wait(now);
}

inline void sync_group(int group) {
#ifndef NO_GROUP_BARRIERS  // a test takes them away, and wants the race detector to tell
    groups[group + 1]->barrier.arrive_and_wait();
#endif
}

// ---- the copy engine

constexpr int AXES = 5;

// What the tests put into a map: sizes and steps of the axes, the innermost first.
struct Values {
    std::uint16_t* first;
    int sizes[AXES];
    long long steps[AXES];
    int boxes[AXES];
};

inline TensorMap map_of(const Values& values) {
    static_assert(sizeof(Values) <= sizeof(TensorMap::opaque));
    TensorMap map;
    std::memcpy(map.opaque, &values, sizeof(Values));
    return map;
}

inline TensorMap map_of(std::uint16_t* first, int rows, int columns, int rows_of_box) {
    return map_of({first, {columns, 1, rows}, {1, 0, columns}, {64, 1, rows_of_box}});
}

// The 16 bytes of a row of 128 lie in another order in each of eight rows.
inline u32 swizzle(u32 address) { return address ^ (address >> 7 & 7) << 4; }

// `use(address, value)` of all values of a box; no value where the tensor ends.
template <typename Use>
void for_each_in_box(const TensorMap& map, const int (&at)[AXES], u32 shared, Use use) {
    Values values;
    std::memcpy(&values, map.opaque, sizeof(Values));
    int count = 1;
    // axes that a tensor does not have
    const auto positive = [](int size) { return size > 0 ? size : 1; };
    for (const int size : values.boxes) count *= positive(size);
    for (int i = 0; i < count; ++i, shared += 2) {
        long long offset = 0;
        bool inside = true;
        for (int axis = 0, rest = i; axis < AXES; ++axis) {
            const int size = positive(values.boxes[axis]), place = at[axis] + rest % size;
            rest /= size;
            offset += place * values.steps[axis];
            inside = inside && place >= 0 && place < positive(values.sizes[axis]);
        }
        use(memory + swizzle(shared), inside ? values.first + offset : nullptr);
    }
}

inline void load_box(
    u32 shared, const TensorMap& map, int at, int second, int third, int fourth, int fifth,
    u32 barrier
) {
    long long bytes = 0;
    const int begin[] = {at, second, third, fourth, fifth};
    for_each_in_box(map, begin, shared, [&](char* to, const std::uint16_t* from) {
        const std::uint16_t value = from ? *from : 0;
        std::memcpy(to, &value, 2);
        bytes += 2;
    });
    arrivals_at(barrier).change(0, -bytes);
}

inline void load_box(u32 shared, const TensorMap& map, int x, int y, int z, u32 barrier) {
    load_box(shared, map, x, y, z, 0, 0, barrier);
}

inline void load_box(u32 shared, const TensorMap& map, int column, int row, u32 barrier) {
    load_box(shared, map, column, 0, row, barrier);
}

inline void store_box(const TensorMap& map, int x, int y, int z, u32 shared) {
    for_each_in_box(map, {x, y, z, 0, 0}, shared, [](const char* from, std::uint16_t* to) {
        if (to) std::memcpy(to, from, 2);
    });
}

inline void store_box(const TensorMap& map, int column, int row, u32 shared) {
    store_box(map, column, 0, row, shared);
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
inline float relu(float x) { return x < 0.0f ? 0.0f : x; }

inline u32 narrow(float low, float high) {
    return narrow_half(low) | static_cast<u32>(narrow_half(high)) << 16;
}

// What each lane of this one's warp gives, while `use` runs.
template <typename Given, typename Use>
void exchange(const Given& own, Use use) {
    static Given all[32][32];
    const int warp = threadIdx.x / 32;
    all[warp][threadIdx.x % 32] = own;
    __syncwarp();
    use(all[warp]);
    __syncwarp();
}

inline void store_turned(u32 shared, const u32 (&pairs)[4]) {
    const int lane = threadIdx.x % 32;
    exchange(shared, [&](const u32* columns) {
        for (int i = 0; i < 4; ++i)
            for (int j = 0; j < 2; ++j) {
                const std::uint16_t value = pairs[i] >> 16 * j;
                std::memcpy(memory + columns[8 * i + lane % 4 * 2 + j] + lane / 4 * 2, &value, 2);
            }
    });
}

inline void publish_barriers() {}
inline void publish_values() {}
template <int COUNT>
void give_registers() {}
template <int COUNT>
void take_registers() {}
