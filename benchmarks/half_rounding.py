"""Which roundings to float16 move the answers of the reference cases, alone and together.

python -m benchmarks.half_rounding --out benchmarks/results/half-rounding-cpu.json

The network computes in float32 on the CPU; only what is named is rounded to float16 and back. What
the weights alone move is what an exact computation with weights in float16 moves: being nearer
takes luck, not a better kernel.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from benchmarks.golden_gpu import manifest_of
from benchmarks.report import GrowingReport, Row
from model.backbone import Block
from model.checkpoint import load_network
from model.config import ModelSpec
from model.images import DecodeLimits, decode_rgb
from model.predictor import Predictor
from tests.model import golden
from tests.model.golden_gpu import AGREEMENT, FOUND, compare_photo
from tests.model.golden_runs import PARAMS, published_model_file

BACKBONE: Final = "backbone."
# the share that agrees, for either task
METRICS: Final = (AGREEMENT, FOUND)


@dataclass(frozen=True, slots=True)
class Rounding:
    """What is rounded: everything whose name begins like this; None: nothing."""

    weights: str | None = None
    maps: str | None = None


ROUNDINGS: Final = {
    "nothing": Rounding(),
    "weights of the backbone": Rounding(weights=BACKBONE),
    "weights": Rounding(weights=""),
    "maps": Rounding(maps=""),
    "weights and maps": Rounding(weights="", maps=""),
}


def rounded(value: Tensor) -> Tensor:
    return value.half().float()


def round_weights(network: nn.Module, beginning: str) -> None:
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(beginning):
                parameter.copy_(rounded(parameter))


@contextmanager
def rounded_maps(network: nn.Module, beginning: str) -> Iterator[None]:
    """What every layer without parts, and every block, gives."""
    with ExitStack() as stack:
        for name, layer in network.named_modules():
            is_written = isinstance(layer, Block) or not any(layer.children())
            if is_written and name.startswith(beginning):
                hook = layer.register_forward_hook(lambda own, given, made: round_result(made))
                stack.callback(hook.remove)
        yield


def round_result(made: Any) -> Any:
    return rounded(made) if isinstance(made, Tensor) and made.dtype == torch.float32 else made


def predictor_for(name: str, network: nn.Module, spec: ModelSpec) -> Predictor:
    """The model, with the input size of a case; its own copy of the weights."""
    info, _ = golden.load_case(name)
    if "scale" in info:
        long, short = info["scale"]
        spec = replace(spec, input=replace(spec.input, long=long, short=short))
    return Predictor(deepcopy(network), spec)


def agreement(name: str, predictor: Predictor, rounding: str) -> Row:
    """How much of one case's answer is the reference's; rounds the predictor's weights."""
    info, _ = golden.load_case(name)
    chosen = ROUNDINGS[rounding]
    if chosen.weights is not None:
        round_weights(predictor._network, chosen.weights)
    data = (golden.ROOT / info["photo"]["file"]).read_bytes()
    prepared = predictor.prepare(decode_rgb(data, limits=DecodeLimits()))
    with ExitStack() as stack:
        if chosen.maps is not None:
            stack.enter_context(rounded_maps(predictor._network, chosen.maps))
        (raw,) = predictor.infer([prepared], [PARAMS[info["task"]]])
    rows = compare_photo(name, predictor.finish(raw, prepared), torch.float16)
    (row,) = (row for row in rows if row.metric in METRICS)
    return Row(name, f"rounded: {rounding}", "ratio", row.value)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="segment,detect", help="beginnings of names")
    arguments = parser.parse_args()
    every = golden.case_names(kind="photo")
    names = [own for task in arguments.only.split(",") for own in every if own.startswith(task)]
    report = GrowingReport(arguments.out, "half-rounding")
    for manifest, own in groupby(names, key=manifest_of):
        with published_model_file(manifest) as path:
            network, spec = load_network(path)
        for name in own:
            for rounding in ROUNDINGS:
                report.add([agreement(name, predictor_for(name, network, spec), rounding)])


if __name__ == "__main__":
    main()
