// `wide_product.cu` as a function of a shared library.

#include "threads.hpp"

#define ON_A_CPU
#define BFLOAT 0
#include "wide_product.cu"

extern "C" void run(
    int blocks, std::uint16_t* x, std::uint16_t* weight, std::uint16_t* out, const float* bias,
    const float* colsum, const float* statistics, const float* shift, int M
) {
    const TensorMap x_map = map_of(x, M, K, ROWS);
    // rows in another order, see the source
    const TensorMap weight_map = map_of(
        {weight, {K, 2, 4, 4, N / 32}, {1, K, 8 * K, 2 * K, 32 * K}, {DEPTH, 2, 4, 4, COLUMNS / 32}}
    );
    run_grid({blocks, 1, 1}, GROUP * (1 + CONSUMERS), GROUP, [&] {
        wide_product(x_map, weight_map, out, bias, colsum, statistics, shift, M);
    });
}
