"""Matrix products with their neighbours by whatever serves the shape fastest."""

import torch
from torch import Tensor

from kernels.linear.cuda_fwd import can_serve, wide_product_cuda
from kernels.linear.reference import Activation
from kernels.linear.triton_fwd import linear_triton

# with so many rows the library's product is faster where nothing follows but a sum
_MANY_ROWS = 1024


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    colsum: Tensor | None = None,
    statistics: Tensor | None = None,
    shift: Tensor | None = None,
    activation: Activation = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """Contract and arguments of `linear_triton`.

    Raises:
        CudaError: a CUDA kernel cannot be compiled, loaded or launched.
    """
    rows = x.reshape(-1, x.shape[-1])
    if bias is not None and residual is None and can_serve(rows, weight):
        out = torch.empty((*x.shape[:-1], weight.shape[0]), dtype=x.dtype, device=x.device)
        flat = out.view(-1, out.shape[-1])
        wide_product_cuda(
            rows,
            weight,
            bias,
            flat,
            colsum=colsum,
            statistics=statistics,
            shift=shift,
            activation=activation,
        )
        return out
    return linear_triton(
        x,
        weight,
        bias,
        colsum=colsum,
        statistics=statistics,
        shift=shift,
        activation=activation,
        residual=residual,
    )


def is_left_to_library(x: Tensor) -> bool:
    """Whether `add_product_` gives the product of these rows to the library.

    Args:
        x: (..., K).
    """
    return x.dtype != torch.float32 and x[..., 0].numel() >= _MANY_ROWS


def add_product_(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Sum total + x W^T; where the library's product is faster it overwrites `total`.

    Args:
        total: (..., N), contiguous; of no use afterwards.
        x: (..., K), dtype of total.
        weight: (N, K), dtype of total.

    Returns:
        (..., N), perhaps `total` itself.
    """
    if not is_left_to_library(x):
        return linear_triton(x, weight, residual=total)
    total.view(-1, total.shape[-1]).addmm_(x.view(-1, x.shape[-1]), weight.t())
    return total
