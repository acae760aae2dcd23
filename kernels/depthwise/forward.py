"""The depthwise convolutions of a block with what follows them, by whatever is fastest."""

from torch import Tensor

from kernels.depthwise.triton_fwd import conv_silu_triton, position_encoding_triton
from kernels.depthwise.triton_token import (
    conv_projection_triton,
    has_few_products,
    has_few_tokens,
    position_encoding_token_triton,
)
from kernels.linear.forward import linear


def position_encoding(
    x: Tensor, weight: Tensor, bias: Tensor, norm_eps: float, offset: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Contract and arguments of `position_encoding_triton` with a norm."""
    if has_few_tokens(x):
        return position_encoding_token_triton(x, weight, bias, norm_eps, offset)
    return position_encoding_triton(x, weight, bias, norm_eps, offset)


def conv_projection(x: Tensor, taps: Tensor, bias: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Contract and arguments of `conv_projection_triton`."""
    if has_few_products(x, weight):
        return conv_projection_triton(x, taps, bias, weight)
    u = conv_silu_triton(x, taps, bias)
    return u, linear(u, weight)
