"""Wide matrix products with norm, bias and activation in CUDA C++ (`wide_product.cu`).

What Triton does not do makes it faster than the kernel beside it: the weight stays in shared memory
while rows stream past, and while one group of warps multiplies, the others work on their results.
"""

from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from kernels import nvrtc
from kernels.device import describe_device
from kernels.linear.reference import Activation

SOURCE: Final = Path(__file__).with_name("wide_product.cu")
# as in the source
ROWS: Final = 64
COLUMNS: Final = 128
DEPTH: Final = 64
# groups of warps: one multiplies while the others work on their results
CONSUMERS: Final = 4
_BOX_BYTES: Final = ROWS * DEPTH * 2
_WEIGHT_BOX_BYTES: Final = COLUMNS * DEPTH * 2
_THREADS: Final = 128 * (1 + CONSUMERS)
# alignment, bias, column sums, shift and barriers
_REST_BYTES: Final = 1024 + 3 * COLUMNS * 4 + 512
_MAX_STAGES: Final = 8
_ACTIVATIONS: Final[dict[Activation, int]] = {
    "none": 0,
    "relu": 1,
    "gelu": 2,
    "silu_second_half": 3,
}


def stages_for(K: int, shared_limit: int) -> int:
    """Blocks of rows in flight that fit a block's shared memory."""
    left = shared_limit - _REST_BYTES - _blocks(K) * _WEIGHT_BOX_BYTES
    return min(_MAX_STAGES, left // _BOX_BYTES)


def _blocks(K: int) -> int:
    """Blocks of K, the last one perhaps filled up."""
    return -(-K // DEPTH)


def can_serve(rows: Tensor, weight: Tensor) -> bool:
    """Whether the kernel serves this product, and faster than others do.

    Args:
        rows: (M, K), a row's values contiguous.
        weight: (N, K), contiguous.
    """
    (M, K), N = rows.shape, weight.shape[0]
    if not nvrtc.can_serve(rows):
        return False
    # the copy engine counts in 16 bytes; a block has 128 columns
    if K % 8 or N % COLUMNS or rows.stride(0) % 8 or rows.data_ptr() % 16:
        return False
    device = describe_device(rows.device)
    # fewer tiles would leave multiprocessors idle
    enough = device.multiprocessors <= -(-M // ROWS) * (N // COLUMNS)
    fits = stages_for(K, device.shared_bytes) >= 2
    return device.capability == (9, 0) and enough and fits


def wide_product_cuda(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    *,
    colsum: Tensor | None = None,
    statistics: Tensor | None = None,
    shift: Tensor | None = None,
    activation: Activation = "none",
) -> None:
    """Write act(norm(rows) weight^T + bias) to `out`; `can_serve(rows, weight)` holds.

    Args:
        rows: (M, K) float16 or bfloat16.
        weight: (N, K), dtype of rows.
        bias: (N,) float32.
        out: (M, N), dtype of rows, contiguous.
        colsum: (N,) float32, sums of the weight's rows; together with `statistics`.
        statistics: (2, M) float32, mean and 1 / std of the rows.
        shift: (N,) float32, product of the weight and an offset of the rows that `statistics`,
            which must be there, leave out.

    Raises:
        CudaError: the kernel cannot be compiled, loaded or launched.
    """
    (M, K), N = rows.shape, weight.shape[0]
    device = describe_device(rows.device)
    stages = stages_for(K, device.shared_bytes)
    defines = {
        "K": K,
        "N": N,
        "STAGES": stages,
        "CONSUMERS": CONSUMERS,
        "NORM": int(statistics is not None),
        "SHIFT": int(shift is not None),
        "ACTIVATION": _ACTIVATIONS[activation],
        "BFLOAT": int(rows.dtype == torch.bfloat16),
    }
    kernel = nvrtc.load_kernel(SOURCE, "wide_product", tuple(defines.items()), rows.device)
    columns = N // COLUMNS
    blocks = columns * max(1, min(device.multiprocessors // columns, -(-M // ROWS)))
    kernel.launch(
        (blocks, 1, 1),
        _THREADS,
        _REST_BYTES + _blocks(K) * _WEIGHT_BOX_BYTES + stages * _BOX_BYTES,
        (
            nvrtc.TensorMap(rows, (ROWS, DEPTH)),
            nvrtc.TensorMap(_in_order(weight), (COLUMNS // 32, 4, 4, 2, DEPTH)),
            out,
            bias,
            bias if colsum is None else colsum,
            bias if statistics is None else statistics,
            bias if shift is None else shift,
            M,
        ),
    )


def _in_order(weight: Tensor) -> Tensor:
    """(N, K) -> (N / 32, 4, 4, 2, K), the same rows in the order of the source's first words."""
    return weight.view(-1, 4, 4, 2, weight.shape[1]).transpose(1, 2)
