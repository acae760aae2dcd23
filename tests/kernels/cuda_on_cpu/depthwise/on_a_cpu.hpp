// `machine.cuh` of the depthwise convolution, for a CPU.

#pragma once

#include "strip_machine.hpp"

inline float power_of_two(float x) { return std::exp2(x); }
inline float reciprocal(float x) { return 1.0f / x; }
