// Sums over the channels of a strip of seven tokens. Each thread has two channels, a group of warps
// all of them. Sources define WIDTH, GROUP and WARPS, and `sync_strip`, first.

#pragma once

__device__ __forceinline__ float exchange(float keep, float give, int distance) {
    return keep + __shfl_xor_sync(0xffffffffu, give, distance);
}

// Sum over a warp of seven values at once: with every exchange a lane gives away half of them.
// Lane l ends with the sum of value l / 4.
__device__ __forceinline__ float sum_warp(const float (&values)[WIDTH]) {
    const int lane = threadIdx.x % 32;
    const bool high = lane & 16, middle = lane & 8, low = lane & 4;
    float four[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float other = i + 4 < WIDTH ? values[i + 4] : 0.0f;
        four[i] = exchange(high ? other : values[i], high ? values[i] : other, 16);
    }
    float two[2];
#pragma unroll
    for (int i = 0; i < 2; ++i)
        two[i] = exchange(middle ? four[i + 2] : four[i], middle ? four[i] : four[i + 2], 8);
    float one = exchange(low ? two[1] : two[0], low ? two[0] : two[1], 4);
    one = exchange(one, one, 2);
    return exchange(one, one, 1);
}

// What lane 4 j holds of value j, in every lane.
__device__ __forceinline__ void spread(float (&values)[WIDTH], float held) {
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) values[j] = __shfl_sync(0xffffffffu, held, 4 * j);
}

__device__ __forceinline__ void read_partial(float (&values)[WIDTH], const float* partial) {
    const float4 a = *reinterpret_cast<const float4*>(partial);
    const float4 b = *reinterpret_cast<const float4*>(partial + 4);
    values[0] = a.x, values[1] = a.y, values[2] = a.z, values[3] = a.w;
    values[4] = b.x, values[5] = b.y, values[6] = b.z;
}

// Sums over all channels, one a token; `scratch` is this strip's, [WARPS][8].
__device__ __forceinline__ void sum_channels(
    float (&values)[WIDTH], float* scratch, int strip
) {
    const int member = threadIdx.x % GROUP, lane = member % 32;
    const float sum = sum_warp(values);
    if (WARPS == 1) return spread(values, sum);
    if (lane % 4 == 0) scratch[member / 32 * 8 + lane / 4] = sum;
    sync_strip(strip);
    float partial[WIDTH];
    if (WARPS > 4) {
        // a lane for each warp's share; otherwise every thread adds them up for itself
        read_partial(partial, scratch + min(lane, WARPS - 1) * 8);
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) partial[j] = lane < WARPS ? partial[j] : 0.0f;
        return spread(values, sum_warp(partial));
    }
    read_partial(values, scratch);
#pragma unroll
    for (int warp = 1; warp < WARPS; ++warp) {
        read_partial(partial, scratch + warp * 8);
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) values[j] += partial[j];
    }
}
