"""Depthwise 3x3 convolutions with their neighbours by whatever serves the maps fastest."""

from torch import Tensor

from kernels.depthwise.cuda_fwd import depthwise_cuda, plan_for
from kernels.depthwise.triton_fwd import conv_silu_triton, position_encoding_triton


def conv_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Contract and arguments of `conv_silu_triton`.

    Raises:
        CudaError: a CUDA kernel cannot be compiled, loaded or launched.
    """
    how = plan_for(x, with_statistics=False)
    if how is None:
        return conv_silu_triton(x, weight, bias)
    return depthwise_cuda(x, weight, bias, how, with_silu=True)[0]


def position_encoding(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_eps: float | None = None,
    offset: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Contract and arguments of `position_encoding_triton`.

    Raises:
        CudaError: a CUDA kernel cannot be compiled, loaded or launched.
    """
    how = plan_for(x, with_statistics=norm_eps is not None)
    if how is None:
        return position_encoding_triton(x, weight, bias, norm_eps, offset)
    return depthwise_cuda(x, weight, bias, how, with_silu=False, norm_eps=norm_eps, offset=offset)
