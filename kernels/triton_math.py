"""Arithmetic shared by the GPU kernels; everything here computes in float32.

`PRECISE` serves float32 tensors: the GPU's approximate exponential is good to about 2^-22, which
half precision never sees and float32 does.
"""

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
_LN2_HIGH: tl.constexpr = tl.constexpr(0.693145751953125)
_LN2_LOW: tl.constexpr = tl.constexpr(1.428606765330187e-06)
# the interpreter knows no machine instructions
_IS_INTERPRETED: tl.constexpr = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def fast_exp2(x):
    """2^x by the one instruction; denormal results are zero, which saves three more."""
    if _IS_INTERPRETED:
        # NumPy would warn of an overflow
        y = tl.where(x >= 128.0, float("inf"), tl.exp2(tl.where(x >= 128.0, 0.0, x)))
    else:
        y = tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return y


@triton.jit
def fast_log2(x):
    """log2(x) of a normal number by the one instruction."""
    if _IS_INTERPRETED:
        y = tl.log2(x)
    else:
        y = tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return y


@triton.jit
def fast_reciprocal(x):
    """1 / x by the one instruction."""
    if _IS_INTERPRETED:
        y = 1.0 / x
    else:
        y = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return y


@triton.jit
def precise_exponential(x):
    """Power of e: x = n ln 2 + r with the product split in two, e^r by its series."""
    n = tl.floor(x * LOG2E + 0.5)
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = r * (1.0 / 720.0) + (1.0 / 120.0)
    p = p * r + (1.0 / 24.0)
    p = p * r + (1.0 / 6.0)
    p = p * r + 0.5
    p = p * r * r + r + 1.0
    # two factors: 2^n alone is denormal where the product is not
    half = tl.floor(n * 0.5)
    return p * tl.exp2(half) * tl.exp2(n - half)


@triton.jit
def step_and_decay(raw, A, PRECISE: tl.constexpr):
    """Step size softplus(raw) and decay e^(step A).

    Precisely: the step is the identity above 20, which is kept out of the exponential; log(1 + y)
    of a small y needs its series, or small step sizes would lose their digits.

    Otherwise raw and the step are in powers of two, raw log2 e and step log2 e: the caller has
    places for these factors that cost less than an instruction a value.
    """
    if PRECISE:
        y = precise_exponential(tl.minimum(raw, 20.0))
        # Kahan's quotient
        shifted = 1.0 + y
        rounded = shifted - 1.0
        quotient = y / tl.where(rounded == 0.0, 1.0, rounded)
        step = tl.where(rounded == 0.0, y, tl.log(shifted) * quotient)
        step = tl.where(raw > 20.0, raw, step)
        decay = precise_exponential(step * A)
    else:
        y = fast_exp2(tl.minimum(raw, 60.0))
        # two terms of the series; where they meet the logarithm, either is right to 3e-5
        series = y * (LOG2E - 0.5 * LOG2E * y)
        step = tl.where(y < 0.0078125, series, fast_log2(1.0 + y))
        # softplus is above the identity, and stays there when the power is cut off
        step = tl.maximum(raw, step)
        decay = fast_exp2(step * A)
    return step, decay


@triton.jit
def silu(x, PRECISE: tl.constexpr):
    """SiLU x / (1 + e^-x); an exponential that overflows leaves zero, its reciprocal."""
    if PRECISE:
        y = x / (1.0 + precise_exponential(tl.minimum(-x, 80.0)))
    else:
        y = x * fast_reciprocal(1.0 + fast_exp2(x * -LOG2E))
    return y


@triton.jit
def gelu(x, PRECISE: tl.constexpr):
    """GELU x Phi(x), the exact one.

    In half precision Phi(x) = 1 / (1 + 2^z) with an odd polynomial z of x, fitted for the least
    error of x Phi(x): 2.6e-5 at most, far below the rounding of the result. It takes half the
    instructions of a polynomial for Phi itself, which limits the kernels that end in a GELU.
    """
    if PRECISE:
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    else:
        # beyond |x| = 7 the last term would bend the exponent back
        square = tl.minimum(x * x, 50.0)
        z = square * 0.0010142630198970437 - 0.10677572339773178
        z = x * (z * square - 2.301121234893799)
        y = x * fast_reciprocal(1.0 + fast_exp2(z))
    return y


@triton.jit
def multiply_add(a, b, acc, PRECISE: tl.constexpr):
    """Sum acc + a b; precisely: the block's products are summed by themselves before they join."""
    if PRECISE:
        acc += tl.dot(a, b, input_precision="ieee")
    else:
        acc = tl.dot(a, b, acc)
    return acc


@triton.jit
def normalise_rows(x, inside, C, eps):
    """LayerNorm (x - mean) / sqrt(variance + eps) of each row of x.

    Args:
        x: (rows, columns) float32, zero outside.
        inside: (columns,) of which C are true; the others stay out of the sums.
    """
    mean = tl.sum(x, axis=1) / C
    centred = tl.where(inside[None, :], x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / C
    return centred * tl.rsqrt(variance + eps)[:, None]


@triton.jit
def clamp(x, limit):
    """The nearest index inside 0..limit - 1."""
    return tl.minimum(tl.maximum(x, 0), limit - 1)


@triton.jit
def token_position(token, H, W):
    """Row and column of each token of a batch of H x W maps, raster order; all int32."""
    in_map = token % (H * W)
    return in_map // W, in_map % W


@triton.jit
def tile_tokens(tile, T, H, W, BLOCK_T: tl.constexpr, TILE_W: tl.constexpr):
    """The tokens of one tile of a batch of H x W maps.

    TILE_W 0: BLOCK_T tokens in raster order, over the ends of rows and maps; nothing is wasted.
    Otherwise a rectangle TILE_W wide inside one map; its neighbours are mostly its own tokens.
    Tokens past an end repeat the nearest one, so that all they read exists; they must not write.

    Returns:
        first token (int64), and per token its index relative to that one, row, column, and
        whether it is no repetition.
    """
    i = tl.arange(0, BLOCK_T)
    if TILE_W == 0:
        start = tile * BLOCK_T
        valid = start + i < T
        token = tl.minimum(start + i, T - 1)
        first, local = start.to(tl.int64), token - start
        row, col = token % (H * W) // W, token % (H * W) % W
    else:
        TILE_H: tl.constexpr = BLOCK_T // TILE_W
        across, down = tl.cdiv(W, TILE_W), tl.cdiv(H, TILE_H)
        top, left = (tile // across) % down * TILE_H, tile % across * TILE_W
        row, col = top + i // TILE_W, left + i % TILE_W
        valid = (row < H) & (col < W)
        row, col = tl.minimum(row, H - 1), tl.minimum(col, W - 1)
        first = (tile // (across * down) * H + top).to(tl.int64) * W + left
        local = (row - top) * W + col - left
    return first, local, row, col, valid


@triton.jit
def depthwise_3x3(x_ptr, weight_ptr, local, row, col, channel, valid, inside, H, W, C, stride):
    """Correlation with one 3x3 kernel per channel, zero padding, and the middle values.

    Args:
        x_ptr: at the tile's first token.
        weight_ptr: (9, C) float32.
        local: (tokens,) index relative to the tile's first token.
        valid, inside: (tokens,), (channels,) which exist.
        stride: elements between tokens of x.

    Returns:
        two (tokens, channels) float32: the correlation, and x itself.
    """
    acc = tl.zeros([local.shape[0], channel.shape[0]], dtype=tl.float32)
    # a loop over the rows and not over all taps: nine tiles in flight would not fit the registers
    for i in range(3):
        r = row + (i - 1)
        for j in tl.static_range(3):
            c = col + (j - 1)
            exists = valid & (r >= 0) & (r < H) & (c >= 0) & (c < W)
            offset = (local + (i - 1) * W + (j - 1)) * stride
            value = tl.load(
                x_ptr + offset[:, None] + channel[None, :],
                mask=exists[:, None] & inside[None, :],
                other=0.0,
            )
            weight = tl.load(weight_ptr + (3 * i + j) * C + channel, mask=inside, other=0.0)
            acc += value.to(tl.float32) * weight[None, :]
    middle = tl.load(
        x_ptr + (local * stride)[:, None] + channel[None, :],
        mask=valid[:, None] & inside[None, :],
        other=0.0,
    )
    return acc, middle.to(tl.float32)
