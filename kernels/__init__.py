"""The operators of Spatial-Mamba; depends on torch alone."""

from kernels.ops import FUSED, REFERENCE, KernelOps, selective_scan, state_fusion

__all__ = ["FUSED", "REFERENCE", "KernelOps", "selective_scan", "state_fusion"]
