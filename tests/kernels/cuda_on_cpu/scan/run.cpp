// `selective_scan.cu` as a function of a shared library.

#include "threads.hpp"

#define ON_A_CPU
#include "selective_scan.cu"

extern "C" void run(
    int columns, int segments, int images, const Half* u, const char* projected,
    const Half* weight, const float* bias, const float* A, Half* out, float* ends, int L,
    int length
) {
    std::memset(memory, 0xff, sizeof(memory));  // NaN: nothing may be used that was not written
    run_grid({columns, segments, images}, 32 * WARPS, GROUP, [&] {
        selective_scan(u, projected, weight, bias, A, out, ends, L, length);
    });
}
