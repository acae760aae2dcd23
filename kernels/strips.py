"""Strips: seven neighbouring tokens of a row, the unit of work of the stencil kernels.

A value that is loaded and converted once serves every token of the strip that it touches, which
halves the instructions of a stencil; 7 divides the sides 56, 28, 14 and 7. Consecutive strips go
down the rows, so that the strips of a program share most of their neighbours.
"""

import triton
import triton.language as tl

WIDTH: tl.constexpr = tl.constexpr(7)


def num_strips(B: int, H: int, W: int) -> int:
    """Strips of a batch of H x W maps."""
    return B * H * triton.cdiv(W, 7)


@triton.jit
def locate_strips(B, H, W, BLOCK_S: tl.constexpr):
    """The strips of this program.

    Those past the end repeat the last one, so that all they read exists; they must not write.

    Returns:
        first token of the program's first strip (int64), and per strip the token it starts at
        relative to that, its row, its first column, and whether it exists.
    """
    across = tl.cdiv(W, WIDTH)
    start = tl.program_id(0) * BLOCK_S
    strip = start + tl.arange(0, BLOCK_S)
    exists = strip < B * H * across
    strip = tl.minimum(strip, B * H * across - 1)
    row, col = strip % H, strip // H % across * WIDTH
    token = (strip // (H * across) * H + row) * W + col
    first_row, first_col = start % H, start // H % across * WIDTH
    first = (start // (H * across) * H + first_row) * W + first_col
    return first.to(tl.int64), token - first, row, col, exists
