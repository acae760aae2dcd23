"""Which roundings to float16 move the answers of the reference cases, one kind at a time.

python -m benchmarks.half_rounding --out benchmarks/results/half-rounding-cpu.json

The network computes in float32 on the CPU; only what is named is rounded to float16 and back. What
the weights alone move is a floor: no kernel that reads them in float16 can be nearer, however it
computes.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

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

Chosen = Callable[[str], bool]


def is_any(name: str) -> bool:
    return True


def is_in_backbone(name: str) -> bool:
    return name.startswith(BACKBONE)


def is_in_head(name: str) -> bool:
    return not name.startswith(BACKBONE)


def is_none(name: str) -> bool:
    return False


# name -> (whose weights, whose maps)
ROUNDINGS: Final[dict[str, tuple[Chosen, Chosen]]] = {
    "nothing": (is_none, is_none),
    "weights of the backbone": (is_in_backbone, is_none),
    "weights of the head": (is_in_head, is_none),
    "weights": (is_any, is_none),
    "maps of the backbone": (is_none, is_in_backbone),
    "maps of the head": (is_none, is_in_head),
    "maps": (is_none, is_any),
    "weights and maps": (is_any, is_any),
}


def rounded(value: Tensor) -> Tensor:
    return value.half().float()


def round_weights(network: nn.Module, chosen: Chosen) -> None:
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if chosen(name):
                parameter.copy_(rounded(parameter))


@contextmanager
def rounded_maps(network: nn.Module, chosen: Chosen) -> Iterator[None]:
    """What every layer without parts, and every block, gives."""
    with ExitStack() as stack:
        for name, layer in network.named_modules():
            is_written = isinstance(layer, Block) or not any(layer.children())
            if is_written and chosen(name):
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
    weights, maps = ROUNDINGS[rounding]
    round_weights(predictor._network, weights)
    data = (golden.ROOT / info["photo"]["file"]).read_bytes()
    prepared = predictor.prepare(decode_rgb(data, limits=DecodeLimits()))
    with rounded_maps(predictor._network, maps):
        (raw,) = predictor.infer([prepared], [PARAMS[info["task"]]])
    rows = compare_photo(name, predictor.finish(raw, prepared), torch.float16)
    (row,) = (row for row in rows if row.metric in METRICS)
    return Row(name, f"rounded: {rounding}", "ratio", row.value)


def manifest_of(name: str) -> str:
    return str(golden.load_case(name)[0]["manifest"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="segment,detect", help="beginnings of names")
    arguments = parser.parse_args()
    names = [
        name
        for name in golden.case_names(kind="photo")
        if name.startswith(tuple(arguments.only.split(",")))
    ]
    report = GrowingReport(arguments.out, "half-rounding")
    for manifest, own in groupby(sorted(names, key=manifest_of), key=manifest_of):
        with published_model_file(manifest) as path:
            network, spec = load_network(path)
        for name in own:
            for rounding in ROUNDINGS:
                report.add([agreement(name, predictor_for(name, network, spec), rounding)])


if __name__ == "__main__":
    main()
