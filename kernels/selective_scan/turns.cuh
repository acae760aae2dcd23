// How the state goes from tile to tile, and from segment to segment, in `selective_scan.cu`.

#pragma once

// Where warps hand on the state between tiles: two places in turns, a barrier for each warp.
struct Turns {
    Carry* places;  // 8 of an even tile, 8 of an odd one
    u32 barriers;
};

__device__ __forceinline__ Turns prepare_turns(char* memory) {
    Turns turns;
    turns.places = reinterpret_cast<Carry*>(memory);
    turns.barriers = shared_address(turns.places + 16);
    if (threadIdx.x == 0) {
        // each lane says for itself that it has read and written
        for (int i = 0; i < WARPS; ++i) init_barrier(turns.barriers + 8 * i, 32);
        publish_barriers();
    }
    return turns;
}

// What the segments of a picture do to a state: what they leave of it, and what they add.
struct Ends {
    float* first;  // (images, all segments but the last, 2, D)

    __device__ __forceinline__ float* of(int segments, int segment) const {
        const long long before = static_cast<long long>(blockIdx.z) * segments + segment;
        return first + before * (2 * D) + blockIdx.x * CHANNELS + threadIdx.x;
    }
};

// The first warp, before the first tile: it need not wait for its turn.
__device__ __forceinline__ void begin_turns(const Turns& turns, const Ends& ends) {
    float state = 0.0f;
    if (PASS == 2) {
        const float* end = ends.of(gridDim.y - 1, 0);
#pragma unroll 8
        for (int i = 0; i < blockIdx.y; ++i, end += 2 * D) state = end[0] * state + end[D];
    }
    turns.places[threadIdx.x % 8].states[threadIdx.x / 8] = state;
    __syncwarp();
    arrive(turns.barriers);
}

// The state before this thread's chunk; the next warp gets that after the tile.
__device__ __forceinline__ Carry hand_on(
    const Turns& at, int turn, const Carry& state, const Carry& decay
) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, quarter = lane % 4;
    wait(at.barriers + 8 * warp, turn % 2);
    // the parity of a tile is that of its warp
    const Carry before = at.places[warp % 2 * 8 + lane / 4];
    Carry after, entering;
#pragma unroll
    for (int j = 0; j < OWN; ++j)
        after.states[j] = state.states[j] + decay.states[j] * before.states[j];
    if (quarter == 3) at.places[(warp + 1) % 2 * 8 + lane / 4] = after;
    arrive(at.barriers + 8 * ((warp + 1) % WARPS));
#pragma unroll
    for (int j = 0; j < OWN; ++j) {
        const float earlier = __shfl_up_sync(0xffffffffu, after.states[j], 1, 4);
        entering.states[j] = quarter ? earlier : before.states[j];
    }
    return entering;
}

// After the last of so many tiles: the state is where the next tile would find it, and the warps'
// decays are joined in any order. `memory` holds what nobody needs any more.
__device__ __forceinline__ void end_segment(
    const Turns& turns, int tiles, const Carry& decay, char* memory, const Ends& ends
) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float* const decays = reinterpret_cast<float*>(memory);
    __syncthreads();
    if (lane % 4 == 3)
        for (int j = 0; j < OWN; ++j) decays[warp * CHANNELS + lane / 4 + 8 * j] = decay.states[j];
    __syncthreads();
    if (warp > 0) return;
    float all = 1.0f;
    for (int i = 0; i < WARPS; ++i) all *= decays[i * CHANNELS + lane];
    float* const end = ends.of(gridDim.y, blockIdx.y);
    end[0] = all;
    end[D] = turns.places[tiles % 2 * 8 + lane % 8].states[lane / 8];
}
