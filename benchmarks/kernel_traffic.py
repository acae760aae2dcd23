"""Bytes that each kernel of a forward pass must move: every map it reads or writes, once.

Weights are left out: they are small and stay in the cache. One unit is a stage's map of width C in
half precision, as in `benchmarks.roofline`. The kernels are those that large batches run on a GPU
of compute capability 9.0.
"""

import math
from collections import Counter

from model.compiled.backbone import MAX_FUSED_MLP, MAX_FUSED_PROJECTION
from model.config import variant

# the library's products go by many names
LIBRARY = "library product"
_LIBRARY_PREFIXES = ("nvjet", "cutlass", "sm90_xmma", "ampere_")


def family(kernel: str) -> str:
    """A profiler's name of a kernel -> the name it has here."""
    return LIBRARY if kernel.startswith(_LIBRARY_PREFIXES) else kernel


def kernel_traffic(name: str, batch: int, side: int) -> Counter[str]:
    """Kernel name -> bytes of all its launches in one pass of a classifier's backbone."""
    config = variant(name).backbone
    moved = _stem(batch, side, config.dims[0])
    for stage, (dim, depth) in enumerate(zip(config.dims, config.depths, strict=True)):
        tokens = batch * (side >> (2 + stage)) ** 2
        for kernel, units in _block(dim).items():
            moved[kernel] += depth * round(units * tokens * dim * 2)
        if stage < len(config.dims) - 1:
            # 8 C at a quarter of the tokens; from them to 2 C
            moved["expand_downsample"] += 3 * tokens * dim * 2
            moved["_linear_kernel"] += round(2.5 * tokens * dim * 2)
    return moved


def _stem(batch: int, side: int, dim: int) -> Counter[str]:
    half = batch * (side // 2) ** 2 * (dim // 2) * 2
    quarter = batch * (side // 4) ** 2 * dim * 2
    pictures = batch * side**2 * 4
    return Counter(
        {"_picture_conv_kernel": pictures + half, "_conv3x3_kernel": (2 + 3 + 1) * half + quarter}
    )


def _block(dim: int) -> Counter[str]:
    """Units per kernel of one block; the projection to dt, B and C is `small`."""
    small = (math.ceil(dim / 16) + 2) / dim
    units = Counter(
        {
            "_depthwise_kernel": 4.0,
            "_linear_kernel": 2 + small,  # the projection to dt, B and C
            "selective_scan": 4 + small,
            "gated_fusion": 8 + small,
            LIBRARY: 4.0,  # the output projection, added to its residual
        }
    )
    if dim <= MAX_FUSED_PROJECTION:
        units["_position_linear_kernel"] += 6
    else:
        units.update({"_depthwise_kernel": 2, "wide_product": 5})
    if dim <= MAX_FUSED_MLP:
        units["_position_mlp_kernel"] += 2
    else:
        # the second half of the MLP is added to its residual, too
        units.update({"_depthwise_kernel": 2, "wide_product": 5, LIBRARY: 6})
    return units
