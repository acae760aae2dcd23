"""Every inference kernel with inputs of a chosen shape, beside its reference."""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from kernels.depthwise.reference import conv_projection_ref, conv_silu_ref, position_encoding_ref
from kernels.depthwise.triton_fwd import conv_silu_triton, position_encoding_triton
from kernels.depthwise.triton_token import conv_projection_triton, position_encoding_token_triton
from kernels.downsample.reference import depthwise_stride2_ref
from kernels.downsample.triton_fwd import depthwise_stride2_triton
from kernels.layer_norm.reference import layer_norm_ref
from kernels.layer_norm.triton_fwd import layer_norm_triton
from kernels.linear.reference import linear_ref
from kernels.linear.triton_fwd import linear_triton
from kernels.nearest.reference import nearest_ref
from kernels.nearest.triton_fwd import add_bias_, nearest_triton
from kernels.pooled_norm.reference import pooled_norm_ref
from kernels.pooled_norm.triton_fwd import pooled_norm_triton
from kernels.position_linear.reference import position_linear_ref
from kernels.position_linear.triton_fwd import position_linear_triton
from kernels.position_mlp.reference import position_mlp_ref
from kernels.position_mlp.triton_fwd import position_mlp_triton
from kernels.selective_scan.chunked import selective_scan_chunked
from kernels.selective_scan.low_rank import low_rank_scan_ref
from kernels.selective_scan.triton_fwd import low_rank_scan_triton
from kernels.state_fusion.gated import gated_fusion_ref, merge_taps
from kernels.state_fusion.triton_fwd import gated_fusion_triton
from kernels.state_fusion.triton_token import gated_fusion_token_triton
from kernels.stem.reference import conv3x3_ref, picture_conv_ref
from kernels.stem.triton_fwd import (
    conv3x3_triton,
    pack_conv_weight,
    pack_picture_weight,
    picture_conv_triton,
)
from kernels.upsample.reference import upsample_ref
from kernels.upsample.triton_fwd import upsample_triton
from tests.kernels.error_ratios import Case, Outputs, error_ratio_of

Shape = tuple[int, int, int, int]
EPS = 1e-5


class Draw:
    """Random inputs: activations and products' weights in the dtype, the rest in float32."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: str) -> None:
        self.B, self.H, self.W, self.C = shape
        self.dtype, self.device = dtype, device
        self._rng = torch.Generator().manual_seed(sum(shape) + shape[0] * 1000003)

    def exact(self, *shape: int, scale: float = 1.0) -> Tensor:
        # large maps are drawn on the device: the CPU's generator would take longer than the test
        if torch.Size(shape).numel() > 1 << 22:
            return torch.randn(shape, device=self.device) * scale
        return (torch.randn(shape, generator=self._rng) * scale).to(self.device)

    def half(self, *shape: int, scale: float = 1.0) -> Tensor:
        return self.exact(*shape, scale=scale).to(self.dtype)

    def map(self, channels: int | None = None) -> Tensor:
        return self.half(self.B, self.H, self.W, self.C if channels is None else channels)


def taps(weight: Tensor) -> Tensor:
    return weight.reshape(weight.shape[0], 9).t().contiguous()


def widen(wide: bool, *tensors: Tensor | None) -> list[Tensor | None]:
    return [x.double() if wide and x is not None else x for x in tensors]


def position_encoding(d: Draw) -> Case:
    x, w, b = d.map(), d.exact(d.C, 1, 3, 3, scale=0.3), d.exact(d.C)
    return Case(
        lambda: [position_encoding_triton(x, taps(w), b)[0]],
        lambda wide: [position_encoding_ref(*widen(wide, x, w, b))],
    )


def position_linear(d: Draw) -> Case:
    x, w, b = d.map(), d.exact(d.C, 1, 3, 3, scale=0.3), d.exact(d.C)
    weight, bias = d.half(4 * d.C, d.C, scale=d.C**-0.5), d.exact(4 * d.C)
    return Case(
        lambda: position_linear_triton(x, taps(w), b, weight, bias, EPS),
        lambda wide: position_linear_ref(*widen(wide, x, w, b, weight, bias), EPS),
    )


def position_mlp(d: Draw) -> Case:
    x, w, b = d.map(), d.exact(d.C, 1, 3, 3, scale=0.3), d.exact(d.C)
    w1, b1 = d.half(4 * d.C, d.C, scale=d.C**-0.5), d.exact(4 * d.C)
    w2, b2 = d.half(d.C, 4 * d.C, scale=(4 * d.C) ** -0.5), d.exact(d.C)
    return Case(
        lambda: [position_mlp_triton(x, taps(w), b, w1, b1, w2, b2, EPS)],
        lambda wide: [position_mlp_ref(*widen(wide, x, w, b, w1, b1, w2, b2), EPS)],
    )


def _linear(
    d: Draw, activation: str, norm: bool, out: int, residual: bool, offset: Tensor | None = None
) -> Case:
    x, w, b = d.map(), d.half(out, d.C, scale=d.C**-0.5), d.exact(out)
    r = d.map(out) if residual else None
    eps = EPS if norm else None
    colsum = w.float().sum(1) if norm else None

    def kernel() -> Outputs:
        stats = statistics(x, offset) if norm else None
        shift = None if offset is None else shift_of(w, offset)
        arguments = {"colsum": colsum, "statistics": stats, "shift": shift, "residual": r}
        return [linear_triton(x, w, b, activation=activation, **arguments)]

    return Case(
        kernel,
        lambda wide: [_linear_ref(*widen(wide, x, w, b, r, offset), eps, activation)],
    )


def _linear_ref(
    x: Tensor,
    w: Tensor,
    b: Tensor,
    r: Tensor | None,
    offset: Tensor | None,
    eps: float | None,
    act: str,
) -> Tensor:
    return linear_ref(x, w, b, norm_eps=eps, offset=offset, activation=act, residual=r)


def shift_of(weight: Tensor, offset: Tensor) -> Tensor:
    return (weight.double() @ offset.double()).float()


def statistics(x: Tensor, offset: Tensor | None = None) -> Tensor:
    wide = x.float() if offset is None else x.float() - offset
    scale = torch.rsqrt(wide.var(-1, unbiased=False) + EPS)
    return torch.stack((wide.mean(-1), scale))


def position_encoding_token(d: Draw) -> Case:
    x, w, b = d.map(), d.exact(d.C, 1, 3, 3, scale=0.3), d.exact(d.C)
    return Case(
        lambda: [position_encoding_token_triton(x, taps(w), b, EPS)[0]],
        lambda wide: [position_encoding_ref(*widen(wide, x, w, b))],
    )


def position_statistics(d: Draw) -> Case:
    return _position_statistics(d, None)


def position_statistics_offset(d: Draw) -> Case:
    return _position_statistics(d, d.exact(d.C))


def position_statistics_token(d: Draw) -> Case:
    return _position_statistics(d, None, position_encoding_token_triton)


def position_statistics_offset_token(d: Draw) -> Case:
    return _position_statistics(d, d.exact(d.C), position_encoding_token_triton)


def _position_statistics(
    d: Draw,
    offset: Tensor | None,
    kernel: Callable[..., Sequence[Tensor | None]] = position_encoding_triton,
) -> Case:
    x, w, b = d.map(), d.exact(d.C, 1, 3, 3, scale=0.3), d.exact(d.C)
    encoded = cache(lambda: kernel(x, taps(w), b, EPS, offset)[0].clone())

    def reference(wide: bool) -> Outputs:
        # of the map as the kernel rounded it: another order of sums rounds a tie the other way
        y = encoded().to(torch.float64 if wide else torch.float32)
        y = y if offset is None else y - offset
        return [torch.stack((y.mean(-1), torch.rsqrt(y.var(-1, unbiased=False) + EPS)))]

    return Case(lambda: [kernel(x, taps(w), b, EPS, offset)[1]], reference)


def linear_gelu(d: Draw) -> Case:
    return _linear(d, "gelu", True, 4 * d.C, False)


def linear_gelu_offset(d: Draw) -> Case:
    return _linear(d, "gelu", True, 4 * d.C, False, d.exact(d.C))


def linear_gate(d: Draw) -> Case:
    return _linear(d, "silu_second_half", True, 4 * d.C, False)


def linear_relu(d: Draw) -> Case:
    return _linear(d, "relu", False, 8 * d.C, False)


def linear_residual(d: Draw) -> Case:
    return _linear(d, "none", False, max(1, d.C // 2), True)


def conv_silu(d: Draw) -> Case:
    D = 2 * d.C
    xz, w, b = d.map(2 * D), d.exact(D, 1, 3, 3, scale=0.3), d.exact(D)
    return Case(
        lambda: [conv_silu_triton(xz[..., :D], taps(w), b)],
        lambda wide: [conv_silu_ref(*widen(wide, xz[..., :D], w, b))],
    )


def conv_projection(d: Draw) -> Case:
    D, P = 2 * d.C, -(-d.C // 16) + 2
    xz, w, b = d.map(2 * D), d.exact(D, 1, 3, 3, scale=0.3), d.exact(D)
    weight = d.half(P, D, scale=D**-0.5)
    u = cache(lambda: conv_projection_triton(xz[..., :D], taps(w), b, weight)[0].clone())

    def reference(wide: bool) -> Outputs:
        x, w_, b_, weight_ = widen(wide, xz[..., :D], w, b, weight)
        # of u as the kernel rounded it: another order of sums rounds a tie the other way
        projected = linear_ref(u().to(x.dtype), weight_)
        return [conv_projection_ref(x, w_, b_, weight_)[0], projected]

    return Case(lambda: conv_projection_triton(xz[..., :D], taps(w), b, weight), reference)


def pooled_norm(d: Draw) -> Case:
    x = d.map()
    return Case(
        lambda: [pooled_norm_triton(x, EPS)],
        lambda wide: [pooled_norm_ref(widen(wide, x)[0], EPS)],
    )


def low_rank_scan(d: Draw, kernel: Callable[..., Tensor] = low_rank_scan_triton) -> Case:
    D, R = 2 * d.C, -(-d.C // 16)
    u, p = d.map(D), d.map(R + 2)
    w, b = d.half(D, R, scale=R**-0.5), d.exact(D) - 2
    A = -d.exact(D).abs() * 2 - 0.05

    def reference(wide: bool) -> Outputs:
        if d.H * d.W <= 1024:
            return [low_rank_scan_ref(*widen(wide, u, p, w, b, A))]
        # the chunked form of the same recurrence: the truth's loop would take minutes
        x, q, weight, bias, decay = widen(wide, u, p, w, b, A)
        compute = torch.float64 if wide else torch.float32
        q = q.to(compute)
        low = (q[..., :R] @ weight.to(compute).t()).flatten(1, 2)
        states = selective_scan_chunked(
            x.flatten(1, 2).to(compute),
            low,
            decay[:, None],
            q[..., R : R + 1].flatten(1, 2),
            bias,
            True,
        )
        return [states.view(x.shape).to(x.dtype)]

    return Case(lambda: [kernel(u, p, w.t().contiguous(), b, A)], reference)


def gated_fusion_token(d: Draw) -> Case:
    return gated_fusion(d, gated_fusion_token_triton)


def gated_fusion(d: Draw, kernel: Callable[..., Tensor] = gated_fusion_triton) -> Case:
    E = 2 * d.C
    state, u, p, gate = d.map(E), d.map(E), d.map(3), d.map(2 * E)[..., E:]
    weight, D, nw, nb = d.exact(3, E, 3, 3, scale=0.3), d.exact(E), d.exact(E), d.exact(E)
    return Case(
        lambda: [kernel(state, u, p, gate, merge_taps(weight), D, nw, nb, EPS)],
        lambda wide: [
            gated_fusion_ref(*widen(wide, state, u, p[..., 2:], gate, weight, D, nw, nb), EPS)
        ],
    )


def depthwise_stride2(d: Draw) -> Case:
    x, w, b = d.map(), d.exact(d.C, 1, 3, 3, scale=0.3), d.exact(d.C)
    return Case(
        lambda: [depthwise_stride2_triton(x, taps(w), b)],
        lambda wide: [depthwise_stride2_ref(*widen(wide, x, w, b))],
    )


def picture_conv(d: Draw) -> Case:
    pictures = (d.exact(d.B, d.H, d.W, 4).abs() * 100).clamp(max=255).to(torch.uint8)
    pictures[..., 3] = 255
    pictures[:, d.H // 2 + 1 :] = 0
    scale, shift = d.exact(4).abs() * 0.02, -d.exact(4).abs()
    w, b = d.half(d.C, 3, 3, 3, scale=0.2), d.exact(d.C)

    def reference(wide: bool) -> Outputs:
        s, t, weight, bias = widen(wide, scale[:3], shift[:3], w, b)
        dtype = torch.float64 if wide else d.dtype
        return [picture_conv_ref(pictures, s, t, weight, bias, dtype)]

    packed = pack_picture_weight(w, d.dtype)
    return Case(lambda: [picture_conv_triton(pictures, scale, shift, packed, b)], reference)


def conv3x3(d: Draw) -> Case:
    x, w, b = d.map(32), d.half(d.C, 32, 3, 3, scale=0.06), d.exact(d.C)
    residual, packed = d.map(), pack_conv_weight(w, d.dtype)

    def reference(wide: bool) -> Outputs:
        x_, w_, b_, r_ = widen(wide, x, w, b, residual)
        return [conv3x3_ref(x_, w_, b_, residual=r_)]

    return Case(lambda: [conv3x3_triton(x, packed, b, residual=residual)], reference)


def conv3x3_project(d: Draw) -> Case:
    x, w, b = d.map(48), d.half(2 * d.C, 48, 3, 3, scale=0.05), d.exact(2 * d.C)
    pw, pb = d.half(d.C, 2 * d.C, scale=(2 * d.C) ** -0.5), d.exact(d.C)
    packed = pack_conv_weight(w, d.dtype)

    def kernel() -> Outputs:
        right = pw.t().contiguous()
        return [conv3x3_triton(x, packed, b, stride=2, project_weight=right, project_bias=pb)]

    def reference(wide: bool) -> Outputs:
        x_, w_, b_, pw_, pb_ = widen(wide, x, w, b, pw, pb)
        return [conv3x3_ref(x_, w_, b_, stride=2, project_weight=pw_, project_bias=pb_)]

    return Case(kernel, reference)


def upsample(d: Draw) -> Case:
    x, size = d.map(), (2 * d.H + 1, 2 * d.W)
    add = d.half(d.B, *size, d.C)
    return Case(
        lambda: [upsample_triton(x, size, add)],
        lambda wide: [upsample_ref(widen(wide, x)[0], size, widen(wide, add)[0])],
    )


def layer_norm(d: Draw) -> Case:
    x, w, b = d.map(2 * d.C)[..., d.C :], d.exact(d.C), d.exact(d.C)
    return Case(
        lambda: [layer_norm_triton(x, w, b, EPS)],
        lambda wide: [layer_norm_ref(*widen(wide, x, w, b), EPS)],
    )


def nearest(d: Draw) -> Case:
    x, size, b = d.map(), (2 * d.H - 1, 2 * d.W), d.exact(d.C)

    def reference(wide: bool) -> Outputs:
        x_, b_ = widen(wide, x, b)
        return [nearest_ref(x_, size, b_), nearest_ref(x_, (d.H, d.W), b_)]

    of_one = x.contiguous()
    return Case(lambda: [nearest_triton(x, size, b), add_bias_(of_one.clone(), b)], reference)


OPS: dict[str, Callable[[Draw], Case]] = {
    function.__name__: function
    for function in (
        position_encoding,
        position_statistics,
        position_statistics_offset,
        position_encoding_token,
        position_statistics_token,
        position_statistics_offset_token,
        position_linear,
        position_mlp,
        linear_gelu,
        linear_gelu_offset,
        linear_gate,
        linear_relu,
        linear_residual,
        conv_silu,
        conv_projection,
        low_rank_scan,
        gated_fusion,
        gated_fusion_token,
        pooled_norm,
        layer_norm,
        nearest,
        depthwise_stride2,
        picture_conv,
        conv3x3,
        conv3x3_project,
        upsample,
    )
}


# these hold all channels of a token in registers: only stages that narrow use them
NARROW = {"position_linear", "position_mlp", "conv3x3", "conv3x3_project"}


def error_ratio(op: str, shape: Shape, dtype: torch.dtype, device: str) -> tuple[float, float]:
    """`error_ratio_of` an operation by its name."""
    return error_ratio_of(op, OPS[op](Draw(shape, dtype, device)))
