"""Times every inference kernel with many tile sizes, for the choices in each kernel's `_tiles`.

python -m benchmarks.tune_kernels [--variant tiny] [--batch 128] [--only NAME] [--out FILE]

Compiles in parallel first, then measures one after the other.
"""

import argparse
import importlib
import json
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton

from model.config import variant

Tiles = tuple[int, ...]
EPS = 1e-5


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


def call(module: str, function: str) -> Callable[..., Any]:
    return getattr(importlib.import_module(module), function)


def stage_trials(B: int, side: int, C: int) -> Iterator[Trial]:
    """All kernels of one stage."""
    E, T, R = 2 * C, B * side * side, -(-C // 16)
    unit = T * C * 2
    small = T * (R + 2) * 4
    where = f"{side}x{side} C{C}"
    yield from _depthwise_trials(B, side, C, where, unit)
    yield from _scan_trials(B, side, C, where, 2 * 2 * unit + small)
    yield from _fusion_trials(B, side, C, where, unit, small)
    if C <= 256:
        yield from _fused_trials(B, side, C, where, unit)
    yield from _linear_trials(B, side, C, where, unit)
    if side % 2 == 0:
        module = "kernels.downsample.triton_fwd"
        for tiles in ((8, 128, 4), (16, 64, 4), (16, 128, 4), (32, 64, 4), (8, 64, 2)):
            yield Trial(
                f"depthwise_stride2 {where}",
                module,
                "_tiles",
                tiles,
                lambda: _bind(
                    module_of("downsample"),
                    "depthwise_stride2_triton",
                    half(B, side, side, 8 * C),
                    exact(9, 8 * C),
                    exact(8 * C),
                ),
                10 * unit,
            )


def module_of(op: str) -> str:
    return f"kernels.{op}.triton_fwd"


def _bind(module: str, function: str, *args: Any, **kwargs: Any) -> Callable[[], Any]:
    target = call(module, function)
    return lambda: target(*args, **kwargs)


def _scan_trials(B: int, side: int, C: int, where: str, traffic: int) -> Iterator[Trial]:
    E, R = 2 * C, -(-C // 16)
    for tiles in (
        (16, 32, 1, 4),
        (16, 16, 1, 4),
        (16, 16, 1, 2),
        (16, 64, 1, 8),
        (16, 64, 1, 4),
        (32, 32, 1, 8),
        (16, 32, 1, 2),
        (16, 128, 1, 8),
    ):
        yield Trial(
            f"scan {where}",
            module_of("selective_scan"),
            "_plan",
            tiles,
            lambda: _bind(
                module_of("selective_scan"),
                "low_rank_scan_triton",
                half(B, side, side, E),
                half(B, side, side, R + 2),
                half(R, E),
                exact(E) - 2,
                -exact(E).abs(),
            ),
            traffic,
        )


def _depthwise_trials(B: int, side: int, C: int, where: str, unit: int) -> Iterator[Trial]:
    module, E = module_of("depthwise"), 2 * C
    for tiles in (
        (8, 64, 4),
        (8, 64, 2),
        (4, 64, 2),
        (16, 32, 4),
        (4, 64, 1),
        (16, 32, 2),
        (4, 128, 4),
        (8, 32, 1),
        (2, 128, 1),
    ):
        yield Trial(
            f"conv_silu {where}",
            module,
            "_tiles",
            tiles,
            lambda: _bind(
                module,
                "conv_silu_triton",
                half(B, side, side, 2 * E)[..., :E],
                exact(9, E),
                exact(E),
            ),
            4 * unit,
        )
    for strips, warps in ((8, 4), (4, 2), (4, 4), (2, 2), (2, 4), (1, 1), (1, 2), (1, 4)):
        if 2 <= strips * C // (32 * warps) <= 16 and C >= 256:
            yield Trial(
                f"position_encoding {where}",
                module,
                "_tiles",
                (strips, C, warps),
                lambda: _bind(
                    module,
                    "position_encoding_triton",
                    half(B, side, side, C),
                    exact(9, C),
                    exact(C),
                    EPS,
                ),
                2 * unit,
            )


def _fusion_trials(B: int, side: int, C: int, where: str, unit: int, small: int) -> Iterator[Trial]:
    E, R, module = 2 * C, -(-C // 16), module_of("state_fusion")

    def make() -> Callable[[], Any]:
        return _bind(
            module,
            "gated_fusion_triton",
            half(B, side, side, E),
            half(B, side, side, E),
            half(B, side, side, R + 2),
            half(B, side, side, 2 * E)[..., E:],
            exact(25, E),
            exact(E),
            exact(E),
            exact(E),
            EPS,
        )

    for strips in (1, 2, 4, 8, 16):
        for warps in (1, 2, 4, 8):
            if 4 <= strips * E // (32 * warps) <= 8:
                yield Trial(
                    f"gated_fusion {where}",
                    module,
                    "_tiles",
                    (strips, warps),
                    make,
                    8 * unit + small,
                )


def _fused_trials(B: int, side: int, C: int, where: str, unit: int) -> Iterator[Trial]:
    for tiles in (
        (64, 128, 4 * C // 128, 4),
        (64, 128, 4 * C // 128, 8),
        (64, 64, 4 * C // 64, 4),
        (64, 64, 4 * C // 64, 8),
        (128, 64, 4 * C // 64, 8),
        (128, 128, 4 * C // 128, 8),
    ):
        yield Trial(
            f"position_linear {where}",
            module_of("position_linear"),
            "_tiles",
            tiles,
            lambda: _bind(
                module_of("position_linear"),
                "position_linear_triton",
                half(B, side, side, C),
                exact(9, C),
                exact(C),
                half(4 * C, C),
                exact(4 * C),
                EPS,
            ),
            6 * unit,
        )
    for tiles in (
        (64, 64, 4, 2),
        (64, 128, 8, 2),
        (128, 64, 8, 2),
        (64, 64, 8, 2),
        (64, 32, 4, 2),
        (128, 128, 8, 2),
        (64, 64, 4, 3),
        (128, 64, 8, 3),
    ):
        yield Trial(
            f"position_mlp {where}",
            module_of("position_mlp"),
            "_tiles",
            tiles,
            lambda: _bind(
                module_of("position_mlp"),
                "position_mlp_triton",
                half(B, side, side, C),
                exact(9, C),
                exact(C),
                half(4 * C, C),
                exact(4 * C),
                half(C, 4 * C),
                exact(C),
                EPS,
            ),
            2 * unit,
        )


def _linear_trials(B: int, side: int, C: int, where: str, unit: int) -> Iterator[Trial]:
    shapes = {
        "gate": (C, 4 * C, "silu_second_half"),
        "gelu": (C, 4 * C, "gelu"),
        "out": (2 * C, C, "none"),
        "x_proj": (2 * C, -(-C // 16) + 2, "none"),
        "fc2": (4 * C, C, "none"),
        "expand": (C, 8 * C, "relu"),
    }
    for name, (K, N, activation) in shapes.items():
        if name in ("gate", "gelu", "fc2") and C < 256:
            continue
        norm = name in ("gate", "gelu")
        for tiles in (
            (128, 128, 64, 8, 3),
            (128, 128, 64, 4, 3),
            (128, 64, 64, 4, 3),
            (64, 128, 64, 4, 3),
            (128, 256, 64, 8, 3),
            (128, 128, 64, 8, 4),
            (64, 64, 64, 4, 4),
        ):
            yield Trial(
                f"linear_{name} {where}",
                module_of("linear"),
                "_tiles",
                tiles,
                lambda K=K, N=N, activation=activation, norm=norm, name=name: _bind(
                    module_of("linear"),
                    "linear_triton",
                    half(B, side, side, K),
                    half(N, K),
                    exact(N),
                    colsum=exact(N) if norm else None,
                    statistics=exact(2, B, side, side) if norm else None,
                    activation=activation,
                    residual=half(B, side, side, N) if name in ("out", "fc2") else None,
                ),
                (K + N + (N if name in ("out", "fc2") else 0)) * (unit // C),
            )


def stem_trials(B: int, C: int) -> Iterator[Trial]:
    h, stem = C // 2, module_of("stem")
    for tiles in ((32, 4), (64, 4), (128, 4), (128, 8), (64, 2)):
        yield Trial(
            "picture_conv",
            stem,
            "_picture_tiles",
            tiles,
            lambda: _bind(
                stem,
                "picture_conv_triton",
                torch.randint(0, 256, (B, 224, 224, 4), device="cuda").byte(),
                exact(4),
                exact(4),
                half(3, 16, h),
                exact(h),
            ),
            B * (224 * 224 * 4 + 112 * 112 * h * 2),
        )
    for tiles in ((64, 4), (128, 4), (128, 8), (256, 8)):
        yield Trial(
            "conv3x3 residual",
            stem,
            "_conv_tiles",
            tiles,
            lambda: _bind(
                stem,
                "conv3x3_triton",
                half(B, 112, 112, h),
                half(9, h, h),
                exact(h),
                residual=half(B, 112, 112, h),
            ),
            B * 112 * 112 * h * 2 * 3,
        )
    for tiles in ((64, 4), (64, 8), (128, 8), (32, 4)):
        yield Trial(
            "conv3x3 project",
            stem,
            "_conv_tiles",
            tiles,
            lambda: _bind(
                stem,
                "conv3x3_triton",
                half(B, 112, 112, h),
                half(9, h, 4 * C),
                exact(4 * C),
                stride=2,
                project_weight=half(4 * C, C),
                project_bias=exact(C),
            ),
            B * (112 * 112 * h + 56 * 56 * C) * 2,
        )


def all_trials(name: str, batch: int) -> list[Trial]:
    config = variant(name).backbone
    trials = list(stem_trials(batch, config.dims[0]))
    for i, dim in enumerate(config.dims):
        trials += stage_trials(batch, 56 >> i, dim)
    return trials


def _compile(task: tuple[str, int, int]) -> None:
    name, batch, index = task
    try:
        all_trials(name, batch)[index].prepare()()
        torch.cuda.synchronize()
    except Exception as exc:  # noqa: BLE001 - reported when it is measured
        print(f"trial {index}: {type(exc).__name__}", flush=True)
    torch.cuda.empty_cache()


def measure(trial: Trial) -> dict[str, Any]:
    row: dict[str, Any] = {"kernel": trial.name, "tiles": trial.tiles}
    try:
        microseconds = 1e3 * triton.testing.do_bench(
            trial.prepare(), warmup=5, rep=25, return_mode="median"
        )
    except Exception as exc:  # noqa: BLE001 - one tile size too many is no reason to stop
        return row | {"error": f"{type(exc).__name__}: {str(exc)[:60]}"}
    return row | {"us": microseconds, "gb_s": trial.traffic / microseconds / 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="tiny")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--top", type=int, default=3, help="lines per kernel")
    args = parser.parse_args()
    trials = all_trials(args.variant, args.batch)
    wanted = tuple(args.only.split(","))
    chosen = [i for i, trial in enumerate(trials) if trial.name.startswith(wanted)]
    with multiprocessing.get_context("spawn").Pool(12) as pool:
        pool.map(_compile, [(args.variant, args.batch, i) for i in chosen], chunksize=1)
    rows = []
    for i in chosen:
        row = measure(trials[i])
        rows.append(row)
        torch.cuda.empty_cache()
    shown: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: (row["kernel"], row.get("us", 1e9))):
        shown[row["kernel"]] = shown.get(row["kernel"], 0) + 1
        if shown[row["kernel"]] <= args.top and "us" in row:
            print(
                f"{row['kernel']:40} {row['tiles']!s:24} {row['us']:9.1f} us {row['gb_s']:7.0f} GB/s"
            )
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
