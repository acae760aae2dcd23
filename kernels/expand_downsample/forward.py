"""The wide half of a down-sampling by whatever serves the map fastest."""

from torch import Tensor

from kernels.downsample.triton_fwd import depthwise_stride2_triton
from kernels.expand_downsample.cuda_fwd import expand_downsample_cuda, plan_for
from kernels.linear.forward import linear


def expand_downsample(
    x: Tensor, weight: Tensor, bias: Tensor, taps: Tensor, taps_bias: Tensor
) -> Tensor:
    """ReLU of a depthwise 3x3 convolution, stride 2, of ReLU(x weight^T + bias).

    Where two kernels do it, the map between them is rounded to the dtype of x.

    Args:
        x: (B, H, W, C).
        weight: (N, C), dtype of x, contiguous.
        bias, taps_bias: (N,) float32.
        taps: (9, N) float32, row-major.

    Returns:
        (B, ceil(H / 2), ceil(W / 2), N), dtype of x.

    Raises:
        CudaError: a CUDA kernel cannot be compiled, loaded or launched.
    """
    how = plan_for(x, weight.shape[0])
    if how is not None:
        return expand_downsample_cuda(x, weight, bias, taps, taps_bias, how)
    wide = linear(x, weight, bias, activation="relu")
    return depthwise_stride2_triton(wide, taps, taps_bias)
