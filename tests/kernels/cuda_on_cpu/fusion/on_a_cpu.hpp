// `machine.cuh` of the fusion, for a CPU.

#pragma once

#include "strip_machine.hpp"

inline void copy_async(void* shared, const void* global) { std::memcpy(shared, global, 16); }
inline void wait_for_copies() {}
