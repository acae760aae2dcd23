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


def is_wide(W: int) -> bool:
    """Whether all tokens of every strip exist."""
    return W >= 7


@triton.jit
def locate_strips(B, H, W, WIDE: tl.constexpr, BLOCK_S: tl.constexpr):
    """The strips of this program.

    The last strip of a row of a wide map is moved back into the row, and strips past the end repeat
    the last one. So every strip of a wide map is whole, and tokens that two strips own are written
    twice, with the same values: nothing needs a mask.

    Returns:
        per strip the token it starts at (int64), its row, and its first column.
    """
    across = tl.cdiv(W, WIDTH)
    strip = tl.program_id(0) * BLOCK_S + tl.arange(0, BLOCK_S)
    strip = tl.minimum(strip, B * H * across - 1)
    # divided twice and not three times, and never `%`: divisions are most of this function
    line = strip // H
    image = line // across
    row, col = strip - line * H, (line - image * across) * WIDTH
    if WIDE:
        col = tl.minimum(col, W - WIDTH)
    return (image * H + row).to(tl.int64) * W + col, row, col
