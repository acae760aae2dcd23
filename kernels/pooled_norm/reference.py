"""LayerNorm without gain and bias, and the mean over all positions: the truth."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pooled_norm_ref(x: Tensor, eps: float) -> Tensor:
    """Mean over the positions of the normalised tokens; gain and bias commute with it.

    Args:
        x: (B, H, W, C).

    Returns:
        (B, C), dtype of x; sums run in float32, or float64 for float64 input.

    Source: arXiv:2410.15091v2, section 4.1 (the classifier's head).
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.layer_norm(wide, (x.shape[-1],), eps=eps).mean((1, 2)).to(x.dtype)
