// The selective scan of `low_rank_scan_ref`; compute capability 9.0.
//
// A block serves one picture, or a segment of it, and 32 channels. Its warps take tiles of 32 tokens in turns; a thread
// has eight consecutive tokens, a chunk, of four channels. Step sizes come from the tensor cores,
// turned: channels are the rows of the product, tokens its columns, so that only four lanes share a
// channel. A chunk's recurrence runs token by token in registers, keeping states and how far each
// token's decay reaches back; two exchanges between lanes join the chunks of a tile. What is still
// missing then, the state before the tile, goes from warp to warp through shared memory: all work
// that does not need it is done before its turn comes.
//
// Tokens come by asynchronous copies while the warp works on the tile before. The product B u comes
// from the tensor cores, too, with the B of eight tokens as a diagonal: it is exact, and takes the
// place of widening u. But a u that is not finite makes up to 31 tokens before it NaN as well.
//
// Where pictures and channels alone are too few for the chip, a picture is cut into segments, and
// there are two launches: the first one finds what every segment but the last does to a state, the
// second one begins each segment with the state that those before it leave.
//
// softplus(x) is max(x, 0) + log(1 + y) with y = e^-|x|, the logarithm a polynomial: its error of
// 9e-6 is a fiftieth of half precision's, it needs no second way for small y, and the unit for
// powers and logarithms, which would be the limit, has a third less to do.
//
// Compiled at run time for each kind of map (see cuda_fwd.py), which defines
//   D, P, R     channels; values of a token in `projected`; how many of them make step sizes
//   WARPS       of a block, an even number
//   PIECE       bytes of `projected` that can be copied at once, 16 or 4
//   WHOLE       1: no tile is cut off
//   PASS        0: pictures as a whole; 1: only what segments do to a state; 2: segments
//   BFLOAT      1: values are bfloat16, 0: float16

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short Half;  // its bits
// warps that a multiprocessor shall hold: 128 registers a thread, or 168 where weights need many
constexpr int RESIDENT = R > 32 ? 12 : 16;
constexpr int TOKENS = 32;  // of a tile
constexpr int CHANNELS = 32;  // of a block
constexpr int STEPS = 8;  // tokens of a chunk
constexpr int OWN = 4;  // channels of a thread: lane / 4, and every eighth from there
constexpr int DEPTH = (R + 7) / 8;  // pieces of eight that the products are long
constexpr int TOKEN_BYTES = 2 * CHANNELS;
constexpr int U_BYTES = TOKENS * TOKEN_BYTES;
constexpr int P_BYTES = TOKENS * P * 2;
// products read whole pieces of the last token, too
constexpr int P_SPACE = (P_BYTES + 16 * DEPTH + 127) / 128 * 128;
constexpr int SLOT_BYTES = U_BYTES + P_SPACE;
// not used here, but by what all kernels share
constexpr int GROUP = 32;
struct __align__(64) TensorMap { char opaque[128]; };

#ifdef ON_A_CPU  // the tests run the kernel there
#include "on_a_cpu.hpp"
#else
#include "machine.cuh"
#endif

struct __align__(16) Sixteen { u32 words[4]; };
struct __align__(16) Carry { float states[OWN]; };

// What a thread needs of its channels.
struct Own {
    u32 weight[DEPTH][2][2];  // two ranks each, of channels 16 i + 8 j
    float bias[2][4];  // as the product's sums begin
    float rate[OWN];  // of decay, so that powers of two do
};

__device__ __forceinline__ void load_own(
    Own& own,
    const Half* __restrict__ weight,
    const float* __restrict__ bias,
    const float* __restrict__ A
) {
    const int lane = threadIdx.x % 32, first = blockIdx.x * CHANNELS + lane / 4;
#pragma unroll
    for (int j = 0; j < OWN; ++j) {
        const int channel = first + 8 * j;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            // read twice: the tensor cores want it in two registers
            own.bias[j / 2][j % 2 * 2 + i] = static_cast<const volatile float*>(bias)[channel];
        }
        own.rate[j] = A[channel] * 1.4426950408889634f;
#pragma unroll
        for (int piece = 0; piece < DEPTH; ++piece) {
            const int rank = 8 * piece + lane % 4 * 2;
            const Half* const pair = weight + rank * D + channel;
            const u32 value = rank < R ? pair[0] | static_cast<u32>(pair[D]) << 16 : 0;
            own.weight[piece][j / 2][j % 2] = value;
        }
    }
}

// Where a lane finds its parts of a slot, in bytes from the slot's begin.
struct Places {
    // 16 bytes of token lane / 4: its quarter of a token's 64
    int row;
    // column lane % 8 of matrix lane / 8, for `load_turned` and `store_turned`
    int turned;
    // of `projected`: a piece to copy; the token whose column of the products it holds
    int piece, token;
    // takes the low half of a word to the lane's place of a diagonal, if it has one
    u32 on_diagonal;
};

// The quarters of a token lie in another order in each chunk, so that no eight lanes ask one bank of
// shared memory for different tokens.
__device__ __forceinline__ Places find_places() {
    const int lane = threadIdx.x % 32, column = lane / 4, row = lane % 8;
    Places own;
    own.row = column * TOKEN_BYTES + lane % 4 * 16;
    own.turned = (row / 2 * STEPS + row % 2) * TOKEN_BYTES + (lane / 8 ^ row / 2) * 16;
    own.piece = U_BYTES + lane * PIECE;
    // column n of a product is token n % 2 of a pair of chunk n / 2; the rank a lane begins with
    own.token = U_BYTES + (column / 2 * STEPS + column % 2) * (2 * P) + lane % 4 * 4;
    own.on_diagonal = column / 2 != lane % 4 ? 0x4444 : column % 2 ? 0x1044 : 0x4410;
    keep(own.turned), keep(own.token), keep(own.on_diagonal), keep(own.row);
    return own;
}

// The lane's 16 bytes of chunk i, given those of the first one.
template <typename Address>
__device__ __forceinline__ Address of_chunk(Address row, int i) {
    return (row ^ 16 * i) + STEPS * TOKEN_BYTES * i;
}

// Begins to copy a tile; `left` are the tokens from its first one to the picture's end.
template <bool IS_WHOLE>
__device__ __forceinline__ void fetch_tile(
    u32 slot, const Places& places, const Half* u, const char* p, int left
) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < TOKENS / STEPS; ++i) {
        const bool exists = IS_WHOLE || lane / 4 + STEPS * i < left;
        copy_async<16>(of_chunk(slot + places.row, i), u + STEPS * i * D, exists ? 16 : 0);
    }
    const u32 to = slot + places.piece;
#pragma unroll
    for (int i = 0; i < (P_BYTES + 32 * PIECE - 1) / (32 * PIECE); ++i) {
        const int skipped = 32 * PIECE * i;
        const bool exists = IS_WHOLE || lane * PIECE < left * (2 * P) - skipped;
        if (skipped + 32 * PIECE <= P_BYTES || lane * PIECE < P_BYTES - skipped)
            copy_async<PIECE>(to + skipped, p + skipped, exists ? PIECE : 0);
    }
}

__device__ __forceinline__ void fetch(
    u32 slot, const Places& places, const Half* u, const char* p, int left
) {
    if (WHOLE || left >= TOKENS)
        fetch_tile<true>(slot, places, u, p, left);
    else
        fetch_tile<false>(slot, places, u, p, left);
}

__device__ __forceinline__ void step_and_decay(float raw, float rate, float& step, float& decay) {
    const float y = power_of_two(fabsf(raw) * -1.4426950408889634f);
    float log = y * -0.02386915f + 0.10122228f;
    log = log * y - 0.21004868f;
    log = log * y + 0.32520667f;
    log = log * y - 0.49936137f;
    log = log * y + 0.9999916f;
    step = log * y + relu(raw);
    decay = power_of_two(step * rate);
}

// A thread's chunk, per channel and token: the state from zero, and what becomes of one before.
struct Chunk {
    float state[OWN][STEPS], decay[OWN][STEPS];
};

// Step sizes before their softplus, of two tokens and of two channels.
__device__ __forceinline__ void multiply_ranks(
    float (&sums)[4], const Own& own, int half, const u32 (&ranks)[DEPTH]
) {
    constexpr int PAIRED = DEPTH / 2 * 2;
    const float (&so_far)[4] = sums, (&bias)[4] = own.bias[half];
#pragma unroll
    for (int piece = 0; piece < PAIRED; piece += 2)
        multiply(
            sums, own.weight[piece][half], own.weight[piece + 1][half], ranks[piece],
            ranks[piece + 1], piece ? so_far : bias
        );
    if (DEPTH % 2)
        multiply(
            sums, own.weight[DEPTH - 1][half], ranks[DEPTH - 1], PAIRED ? so_far : bias
        );
}

__device__ __forceinline__ void run_chunk(
    Chunk& chunk, const Own& own, const Places& places, const char* slot, u32 turned
) {
    const int quarter = threadIdx.x % 4;
    const float zeros[4] = {};
#pragma unroll
    for (int pair = 0; pair < STEPS / 2; ++pair) {
        const char* const token = slot + places.token + pair * (4 * P);
        u32 ranks[DEPTH], u[4];
#pragma unroll
        for (int piece = 0; piece < DEPTH; ++piece) {
            const int rank = 8 * piece + 2 * quarter;
            ranks[piece] = *reinterpret_cast<const u32*>(token + 16 * piece);
            // B and C come next, and whatever they are must not reach the product
            if (8 * piece + 8 > R && rank >= R) ranks[piece] = 0;
        }
        const u32 B_and_C = *reinterpret_cast<const u32*>(token + 2 * R - 4 * quarter);
        const u32 B = __byte_perm(B_and_C, 0, places.on_diagonal);
        load_turned(u, turned + pair * (2 * TOKEN_BYTES));
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float raws[4], drives[4];
            multiply_ranks(raws, own, half, ranks);
            multiply(drives, {u[2 * half], u[2 * half + 1]}, B, zeros);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int j = 2 * half + i / 2, t = 2 * pair + i % 2;
                float step, decay;
                step_and_decay(raws[i], own.rate[j], step, decay);
                const float drive = step * drives[i];
                chunk.state[j][t] = t ? decay * chunk.state[j][t - 1] + drive : drive;
                chunk.decay[j][t] = t ? decay * chunk.decay[j][t - 1] : decay;
            }
        }
    }
}

// Of all chunks of the tile up to this thread's, as one: what they do to a state.
__device__ __forceinline__ void join_chunks(const Chunk& chunk, Carry& state, Carry& decay) {
    const int quarter = threadIdx.x % 4;
#pragma unroll
    for (int j = 0; j < OWN; ++j) {
        state.states[j] = chunk.state[j][STEPS - 1];
        decay.states[j] = chunk.decay[j][STEPS - 1];
    }
#pragma unroll
    for (int distance = 1; distance <= 2; distance *= 2) {
#pragma unroll
        for (int j = 0; j < OWN; ++j) {
            const float before = __shfl_up_sync(0xffffffffu, state.states[j], distance, 4);
            const float reach = __shfl_up_sync(0xffffffffu, decay.states[j], distance, 4);
            compose_if(quarter >= distance, state.states[j], decay.states[j], before, reach);
        }
    }
}

#include "turns.cuh"

// Answers take the place of u, which has been read, and go from there to the result.
__device__ __forceinline__ void send(
    const Chunk& chunk, const Carry& entering, u32 turned, const char* memory, int row, Half* out,
    int left
) {
#pragma unroll
    for (int pair = 0; pair < STEPS / 2; ++pair) {
        u32 pairs[OWN];
#pragma unroll
        for (int j = 0; j < OWN; ++j) {
            const float (&state)[STEPS] = chunk.state[j], (&decay)[STEPS] = chunk.decay[j];
            const int t = 2 * pair;
            pairs[j] = narrow(
                state[t] + decay[t] * entering.states[j],
                state[t + 1] + decay[t + 1] * entering.states[j]
            );
        }
        store_turned(turned + pair * (2 * TOKEN_BYTES), pairs);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < TOKENS / STEPS; ++i) {
        const Sixteen values = *reinterpret_cast<const Sixteen*>(memory + of_chunk(row, i));
        if (WHOLE || static_cast<int>(threadIdx.x % 32 / 4) + STEPS * i < left)
            *reinterpret_cast<Sixteen*>(out + STEPS * i * D) = values;
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT / WARPS) selective_scan(
    const Half* __restrict__ u,  // (images, L, D)
    const char* __restrict__ projected,  // (images, L, P): ranks, B, C
    const Half* __restrict__ weight,  // (R, D)
    const float* __restrict__ bias,  // (D,)
    const float* __restrict__ A,  // (D,)
    Half* __restrict__ out,  // (images, L, D)
    float* __restrict__ segment_ends,  // see `Ends`; not read and not written with PASS 0
    int L,
    int length  // of a segment, a multiple of 32 unless it is the whole
) {
    extern __shared__ __align__(128) char memory[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, begin = blockIdx.y * length;
    const long long first = static_cast<long long>(blockIdx.z) * L + begin + warp * TOKENS;
    const int channel = blockIdx.x * CHANNELS + lane % 4 * 8;
    u += (first + lane / 4) * D + channel;
    out += (first + lane / 4) * D + channel;
    projected += first * (2 * P) + lane * PIECE;
    const Places places = find_places();
    const u32 shared = shared_address(memory);
    int slot = warp * 2 * SLOT_BYTES, both = 2 * slot + SLOT_BYTES;  // its two slots, added
    keep(both);
    const int tokens = min(length, L - begin);
    int left = tokens - warp * TOKENS;
    constexpr int STRIDE = WARPS * TOKENS;
    const auto fetch_next = [&](int to, int left) {
        if (left > 0) fetch(shared + to, places, u, projected, left);
        commit_copies();
        u += STRIDE * D, projected += STRIDE * P * 2;
        keep(u), keep(projected);
    };
    const Turns turns = prepare_turns(memory + WARPS * 2 * SLOT_BYTES);
    const Ends ends = {segment_ends};
    Own own;
    load_own(own, weight, bias, A);
    Carry reach = {1.0f, 1.0f, 1.0f, 1.0f};  // decay of all tiles of this warp
    await_predecessor();
    fetch_next(slot, left);
    fetch_next(both - slot, left - STRIDE);
    if (warp == 0) begin_turns(turns, ends);
    __syncthreads();

#pragma unroll 1
    for (int turn = 0; left > 0; ++turn) {
        wait_for_copies<1>();  // all but those of the next tile
        __syncwarp();
        Chunk chunk;
        const u32 turned = shared + slot + places.turned;
        run_chunk(chunk, own, places, memory + slot, turned);
        Carry state, decay;
        join_chunks(chunk, state, decay);
        const Carry entering = hand_on(turns, turn, state, decay);
        if (PASS == 1)
            for (int j = 0; j < OWN; ++j) reach.states[j] *= decay.states[j];
        else
            send(chunk, entering, turned, memory, slot + places.row, out, left);
        __syncwarp();  // the slot has been read by all lanes
        fetch_next(slot, left - 2 * STRIDE);
        out += STRIDE * D, left -= STRIDE, slot = both - slot;
    }
    if (PASS == 1) end_segment(turns, (tokens + TOKENS - 1) / TOKENS, reach, memory, ends);
}
