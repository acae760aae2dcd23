// `gated_fusion.cu` as a function of a shared library.

#include "threads.hpp"

#define ON_A_CPU
#include "gated_fusion.cu"

// shared memory: more than any block of the tests asks for
__align__(16) Pair rows[1 << 16];

extern "C" void run(
    int tiles, int segments, int images,
    const Pair* state, const Pair* u, const unsigned short* projected, const Pair* gate,
    const float2* weight, const float2* D, const float2* gain, const float2* bias, Pair* out,
    int H, int W, int rows_of_block, int columns_of_ring, float eps
) {
    run_grid({tiles, segments, images}, THREADS, GROUP, [&] {
        gated_fusion(
            state, u, projected, gate, weight, D, gain, bias, out, H, W, rows_of_block,
            columns_of_ring, eps
        );
    });
}
