"""Every inference kernel on the shapes of a model's stages, with the tile sizes worth trying."""

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from kernels.layout import next_power_of_2
from kernels.linear.reference import Activation
from model.config import variant

Tiles = tuple[int, ...]
EPS = 1e-5
SCAN_TILES = (
    (16, 64, 1, 4, 255),
    (8, 64, 1, 4, 255),
    (16, 64, 1, 4, 168),
    (16, 32, 1, 4, 128),
    (8, 32, 1, 2, 255),
    (8, 32, 1, 4, 255),
)
DEPTHWISE_TILES = ((8, 64, 4), (16, 32, 4), (4, 64, 2), (8, 64, 2), (4, 128, 4))
MLP_TILES = (
    (64, 64, 4, 2),
    (64, 64, 4, 3),
    (64, 128, 8, 2),
    (128, 64, 8, 2),
    (128, 64, 8, 3),
    (64, 32, 4, 3),
)
LINEAR_TILES = (
    (128, 128, 64, 8, 3),
    (128, 128, 64, 4, 3),
    (128, 64, 64, 4, 3),
    (64, 128, 64, 4, 3),
    (128, 256, 64, 8, 3),
    (64, 256, 64, 8, 3),
    (128, 128, 32, 8, 4),
)
NARROW_TILES = (
    (64, 16, 64, 4, 3),
    (128, 16, 64, 4, 3),
    (128, 32, 64, 4, 3),
    (64, 32, 64, 4, 4),
    (64, 32, 128, 4, 3),
    (32, 32, 128, 4, 3),
    (64, 64, 64, 4, 4),
    (64, 64, 64, 4, 3),
    (32, 64, 64, 4, 4),
    (128, 64, 64, 4, 3),
    (128, 64, 64, 8, 4),
)
# a single picture: few rows, where a long sum's latency counts
SMALL_LINEAR_TILES = (
    (16, 64, 64, 4, 4),
    (16, 64, 128, 4, 3),
    (16, 32, 128, 4, 4),
    (16, 128, 128, 4, 3),
    (32, 64, 64, 4, 4),
    (64, 64, 64, 4, 4),
    (16, 32, 256, 4, 3),
)
SMALL_MLP_TILES = ((16, 64, 4, 2), (16, 128, 4, 2), (16, 64, 4, 3), (32, 64, 4, 2), (16, 32, 4, 3))
SMALL_BATCH = 8


@dataclass(frozen=True, slots=True)
class Trial:
    """One kernel on one stage's shapes with one choice of tiles.

    Attributes:
        module, function: whose answer is replaced by `tiles`.
        traffic: bytes that must be read or written, each once.
    """

    name: str
    module: str
    function: str
    tiles: Tiles
    make: Callable[[], Callable[[], Any]]
    traffic: int

    def prepare(self) -> Callable[[], Any]:
        module = importlib.import_module(self.module)
        setattr(module, self.function, lambda *_args: self.tiles)
        return self.make()


def half(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.float16) * 0.3


def exact(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda") * 0.3


def stage_trials(B: int, side: int, C: int) -> Iterator[Trial]:
    """All kernels of one stage."""
    E, R = 2 * C, -(-C // 16)
    unit = B * side * side * C * 2
    small = B * side * side * (R + 2) * 2

    def trials(
        name: str,
        op: str,
        function: str,
        traffic: int,
        options: Iterable[Tiles],
        make: Callable[[], Callable[[], Any]],
    ) -> Iterator[Trial]:
        for tiles in options:
            yield Trial(f"{name} {side}x{side} C{C}", module_of(op), function, tiles, make, traffic)

    def shaped(channels: int) -> torch.Tensor:
        return half(B, side, side, channels)

    yield from trials(
        "scan",
        "selective_scan",
        "_plan",
        4 * unit + small,
        SCAN_TILES,
        lambda: _bind(
            "selective_scan",
            "low_rank_scan_triton",
            shaped(E),
            shaped(R + 2),
            half(R, E),
            exact(E) - 2,
            -exact(E).abs(),
        ),
    )
    yield from trials(
        "conv_silu",
        "depthwise",
        "_tiles",
        4 * unit,
        DEPTHWISE_TILES,
        lambda: _bind(
            "depthwise", "conv_silu_triton", shaped(2 * E)[..., :E], exact(9, E), exact(E)
        ),
    )
    yield from trials(
        "gated_fusion",
        "state_fusion",
        "_tiles",
        8 * unit + small,
        [(n // E, w) for n in (2048, 4096, 8192) for w in (4, 8) if n >= E],
        lambda: _bind(
            "state_fusion",
            "gated_fusion_triton",
            shaped(E),
            shaped(E),
            shaped(R + 2),
            shaped(2 * E)[..., E:],
            exact(25, E),
            exact(E),
            exact(E),
            exact(E),
            EPS,
        ),
    )
    if C <= 128:
        yield from trials(
            "position_linear",
            "position_linear",
            "_tiles",
            6 * unit,
            [
                (t, n, 4 * C // n, w)
                for t, n, w in (
                    (64, 128, 4),
                    (64, 64, 4),
                    (64, 128, 8),
                    (128, 64, 8),
                    (128, 128, 8),
                )
            ],
            lambda: _bind(
                "position_linear",
                "position_linear_triton",
                shaped(C),
                exact(9, C),
                exact(C),
                half(4 * C, C),
                exact(4 * C),
                EPS,
            ),
        )
        yield from trials(
            "position_mlp",
            "position_mlp",
            "_tiles",
            2 * unit,
            SMALL_MLP_TILES if B <= SMALL_BATCH else MLP_TILES,
            lambda: _bind(
                "position_mlp",
                "position_mlp_triton",
                shaped(C),
                exact(9, C),
                exact(C),
                half(4 * C, C),
                exact(4 * C),
                half(C, 4 * C),
                exact(C),
                EPS,
            ),
        )
    else:
        yield from trials(
            "position_encoding",
            "depthwise",
            "_tiles",
            2 * unit,
            [(s, next_power_of_2(C), w) for s, w in ((1, 1), (1, 2), (2, 2), (2, 4))],
            lambda: _bind(
                "depthwise", "position_encoding_triton", shaped(C), exact(9, C), exact(C), EPS
            ),
        )
    yield from _linear_trials(trials, shaped, C, unit, B * side * side, is_small=B <= SMALL_BATCH)
    if side % 2 == 0:
        yield from trials(
            "depthwise_stride2",
            "downsample",
            "_tiles",
            10 * unit,
            ((8, 128, 4), (16, 64, 4), (16, 128, 4), (32, 64, 4), (8, 64, 2)),
            lambda: _bind(
                "downsample",
                "depthwise_stride2_triton",
                shaped(8 * C),
                exact(9, 8 * C),
                exact(8 * C),
            ),
        )
        yield from trials(
            "linear_project",
            "linear",
            "_tiles",
            (8 + 2) * unit // 4,
            (*LINEAR_TILES, (128, 64, 64, 4, 4), (128, 64, 64, 8, 4), (128, 256, 64, 8, 4)),
            lambda: _bind(
                "linear",
                "linear_triton",
                half(B, side // 2, side // 2, 8 * C),
                half(2 * C, 8 * C),
                exact(2 * C),
            ),
        )


def _linear_trials(
    trials: Callable[..., Iterator[Trial]],
    shaped: Callable[[int], torch.Tensor],
    C: int,
    unit: int,
    T: int,
    *,
    is_small: bool,
) -> Iterator[Trial]:
    shapes: dict[str, tuple[int, int, Activation]] = {
        "x_proj": (2 * C, -(-C // 16) + 2, "none"),
        "expand": (C, 8 * C, "relu"),
        "out": (2 * C, C, "none"),
    }
    if C > 128:
        shapes |= {
            "gate": (C, 4 * C, "silu_second_half"),
            "gelu": (C, 4 * C, "gelu"),
            "fc2": (4 * C, C, "none"),
        }
    for name, (K, N, activation) in shapes.items():
        statistics = (lambda: exact(2, T)) if name in ("gate", "gelu") else (lambda: None)

        def make(
            K: int = K,
            N: int = N,
            activation: Activation = activation,
            name: str = name,
            statistics: Any = statistics,
        ) -> Callable[[], Any]:
            normed = statistics()
            return _bind(
                "linear",
                "linear_triton",
                shaped(K),
                half(N, K),
                exact(N),
                colsum=None if normed is None else exact(N),
                statistics=normed,
                shift=exact(N) if name == "gelu" else None,
                activation=activation,
                residual=shaped(N) if name in ("fc2", "out") else None,
            )

        traffic = (K + N + (N if name in ("fc2", "out") else 0)) * (unit // C)
        tiles = NARROW_TILES if name == "x_proj" else LINEAR_TILES
        if is_small:
            tiles = SMALL_LINEAR_TILES
        yield from trials(f"linear_{name}", "linear", "_tiles", traffic, tiles, make)


def module_of(op: str) -> str:
    return f"kernels.{op}.triton_fwd"


def _bind(op: str, function: str, *args: Any, **kwargs: Any) -> Callable[[], Any]:
    target = getattr(importlib.import_module(module_of(op)), function)
    return lambda: target(*args, **kwargs)


def stem_trials(B: int, C: int) -> Iterator[Trial]:
    h, stem = C // 2, module_of("stem")
    pixels = B * 112 * 112 * h * 2
    for tiles in ((32, 4), (64, 4), (128, 4), (64, 2)):
        yield Trial(
            "picture_conv",
            stem,
            "_picture_tiles",
            tiles,
            lambda: _bind(
                "stem",
                "picture_conv_triton",
                torch.randint(0, 256, (B, 224, 224, 4), device="cuda").byte(),
                exact(4),
                exact(4),
                half(3, 16, h),
                exact(h),
            ),
            B * 224 * 224 * 4 + pixels,
        )
    for tiles in ((64, 4, 3), (128, 4, 3), (128, 8, 3), (64, 4, 4)):
        yield Trial(
            "conv3x3 residual",
            stem,
            "_conv_tiles",
            tiles,
            lambda: _bind(
                "stem",
                "conv3x3_triton",
                half(B, 112, 112, h),
                half(9, h, h),
                exact(h),
                residual=half(B, 112, 112, h),
            ),
            pixels * 3,
        )
    for tiles in ((64, 4, 4), (64, 4, 3), (64, 8, 3), (128, 8, 3)):
        yield Trial(
            "conv3x3 project",
            stem,
            "_conv_tiles",
            tiles,
            lambda: _bind(
                "stem",
                "conv3x3_triton",
                half(B, 112, 112, h),
                half(9, h, 4 * C),
                exact(4 * C),
                stride=2,
                project_weight=half(4 * C, C),
                project_bias=exact(C),
            ),
            pixels + B * 56 * 56 * C * 2,
        )


def all_trials(name: str, batch: int) -> list[Trial]:
    config = variant(name).backbone
    trials = list(stem_trials(batch, config.dims[0]))
    for i, dim in enumerate(config.dims):
        trials += stage_trials(batch, 56 >> i, dim)
    return trials
