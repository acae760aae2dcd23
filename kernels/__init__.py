"""The operators of Spatial-Mamba, and the kernels that serve it on a GPU.

Depends on torch and Triton alone.
"""

from kernels.ops import FUSED, REFERENCE, KernelOps, selective_scan, state_fusion

__all__ = ["FUSED", "REFERENCE", "KernelOps", "selective_scan", "state_fusion"]
