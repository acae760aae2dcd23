// `machine.cuh` of the fusion, for a CPU.

#pragma once

inline float2 widen(Pair pair) {
    return {widen_half(pair & 0xffff), widen_half(pair >> 16)};
}

inline Pair narrow(float2 value) {
    return narrow_half(value.x) | static_cast<Pair>(narrow_half(value.y)) << 16;
}

inline float inverse_root(float x) { return 1.0f / std::sqrt(x); }

inline void copy_async(void* shared, const void* global) { std::memcpy(shared, global, 16); }
inline void wait_for_copies() {}
inline void sync_strip(int strip) { groups[strip]->barrier.arrive_and_wait(); }
