// What `dependent_launch.py` says, for kernels in CUDA C++.

#pragma once

// Until the kernel before is done and its results are visible; then the next one may come. To be
// called before anything is read or written that another kernel writes.
__device__ __forceinline__ void await_predecessor() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
