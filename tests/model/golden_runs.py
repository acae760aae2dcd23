"""Run a reference case through the project's own loader and pipeline, and compare."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporters.convert import ConversionRequest, convert
from model.classifier import Classifier
from model.images import DecodeLimits, decode_rgb
from model.mask_rcnn import MaskRCNN
from model.masks import rle_to_mask
from model.predictor import Predictor, Prepared
from model.resizing import iter_full_logits
from model.results import (
    Classification,
    ClassifyParams,
    Detections,
    DetectParams,
    Params,
    Segmentation,
    SegmentParams,
)
from model.roi_heads import BOX_POOL, assign_levels, pool_rois
from model.rpn import select_proposals
from tests.model import golden

PARAMS: dict[str, Params] = {
    "classify": ClassifyParams(),
    "detect": DetectParams(),
    "segment": SegmentParams(),
}
TAPPED_BLOCK = "backbone.stages.2.3"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One comparison: what was compared, whether it is inside the tolerance, the figures."""

    what: str
    ok: bool
    report: dict[str, Any]


@contextmanager
def published_model_file(manifest_name: str) -> Iterator[Path]:
    """Fill the official keys, write an official checkpoint, convert it; deleted afterwards."""
    manifest = golden.load_manifest(manifest_name)
    layout = "classification" if manifest["task"] == "classify" else "openmmlab"
    with tempfile.TemporaryDirectory() as folder:
        official, converted = Path(folder) / "official.pth", Path(folder) / "model.safetensors"
        arrays = golden.module("fill").fill(manifest)
        golden.module("checkpoint").write(str(official), arrays, layout)
        summary = convert(official, converted, ConversionRequest())
        if (summary.spec.task, summary.spec.variant) != (manifest["task"], manifest["variant"]):
            raise ValueError(f"{manifest_name} was taken for {summary.spec}")
        yield converted


def load_published(manifest_name: str) -> Predictor:
    """The model of a `published_model_file`."""
    with published_model_file(manifest_name) as path:
        return Predictor.load(path)


def run_tensor_case(name: str, predictor: Predictor) -> list[Outcome]:
    """Synthetic input -> raw logits."""
    info, ref = golden.load_case(name)
    logits = _network(predictor)(_synthetic_input(info)).numpy()
    return [_close("logits", logits, info, ref)]


def run_tap_case(name: str, predictor: Predictor) -> list[Outcome]:
    """Synthetic input -> intermediate values, batch item 0."""
    info, ref = golden.load_case(name)
    taps = _record_taps(_network(predictor), _synthetic_input(info))
    limit = info["tolerance"]["fp32"]["relative_to_abs_max"]
    outcomes = []
    for tap, expected in ref.items():
        got = golden.thinned(taps[tap].numpy(), info["arrays"][tap]["what"])
        gap = float(np.abs(got.reshape(expected.shape) - expected).max() / np.abs(expected).max())
        outcomes.append(Outcome(tap, gap <= limit, {"relative_to_abs_max": gap}))
    return outcomes


def run_photo_case(name: str, predictor: Predictor) -> list[Outcome]:
    """Photograph -> answer, the complete pipeline."""
    info, ref = golden.load_case(name)
    if "scale" in info:
        long, short = info["scale"]
        inputs = replace(predictor.spec.input, long=long, short=short)
        predictor.spec = replace(predictor.spec, input=inputs)
    data = (golden.ROOT / info["photo"]["file"]).read_bytes()
    prepared = predictor.prepare(decode_rgb(data, limits=DecodeLimits()))
    raw = predictor.infer([prepared], [PARAMS[info["task"]]])[0]
    result = predictor.finish(raw, prepared)
    if isinstance(result, Classification):
        return [_close("logits", raw.numpy(), info, ref)]
    if isinstance(result, Segmentation):
        return _compare_segmentation(info, ref, raw, prepared, result)
    outcomes = [_compare_detections(info, ref, result)]
    return outcomes + (_compare_stages(info, ref, predictor, prepared) if "fpn0" in ref else [])


def _network(predictor: Predictor) -> nn.Module:
    return predictor._network


def _synthetic_input(info: dict[str, Any]) -> Tensor:
    array = golden.module("fill").make_input(*info["input"]["make_input"])
    return torch.from_numpy(array).contiguous(memory_format=torch.channels_last)


def _close(key: str, got: np.ndarray, info: dict[str, Any], ref: dict[str, Any]) -> Outcome:
    got = golden.thinned(got, info["arrays"][key]["what"])
    tolerance = info["tolerance"]["fp32"]
    ok, report = golden.module("compare").close(got.reshape(ref[key].shape), ref[key], tolerance)
    return Outcome(key, ok, report)


def _compare_segmentation(
    info: dict[str, Any],
    ref: dict[str, np.ndarray],
    raw: Tensor,
    prepared: Prepared,
    result: Segmentation,
) -> list[Outcome]:
    height, width = prepared.original_hw
    strips = iter_full_logits(raw, prepared.resized_hw, prepared.original_hw)
    full = torch.cat(list(strips), dim=1).numpy()
    sure = np.unpackbits(ref["sure"])[: height * width].reshape(height, width)
    ok, report = golden.module("compare").segmap(result.label_map, ref["argmax"], sure)
    return [_close("logits", full, info, ref), Outcome("class map", ok, report)]


def _compare_detections(
    info: dict[str, Any], ref: dict[str, np.ndarray], result: Detections
) -> Outcome:
    compare = golden.module("compare")
    want = dict(ref, masks=compare.unpack_bits(ref["masks"], info["masks_shape"]))
    got = {
        "boxes": result.boxes,
        "scores": result.scores,
        "labels": result.class_ids,
        "masks": np.stack([rle_to_mask(rle) for rle in result.masks or ()]),
    }
    ok, report = compare.detections(got, want, info["tolerance"]["fp32"])
    return Outcome("detections", ok, report)


def _compare_stages(
    info: dict[str, Any], ref: dict[str, np.ndarray], predictor: Predictor, prepared: Prepared
) -> list[Outcome]:
    """The detector's intermediate maps and head outputs, relative to each one's largest value."""
    network = _network(predictor)
    if not isinstance(network, MaskRCNN):
        raise TypeError(f"expected a detector, got {type(network).__name__}")
    got = _detector_stages(network, prepared, torch.from_numpy(ref["proposals"]))
    outcomes = []
    for key, value in got.items():
        if key not in ref:
            continue
        thin = golden.thinned(value.numpy(), info["arrays"][key]["what"]).reshape(ref[key].shape)
        gap = float(np.abs(thin - ref[key]).max() / max(np.abs(ref[key]).max(), 1e-9))
        outcomes.append(Outcome(key, gap <= 1e-4, {"relative_to_abs_max": gap}))
    return outcomes


@torch.inference_mode()
def _detector_stages(network: MaskRCNN, prepared: Prepared, proposals: Tensor) -> dict[str, Tensor]:
    images = prepared.pixels.unsqueeze(0)
    features = network.backbone(images)
    stages = {f"backbone{i}": x.permute(0, 3, 1, 2) for i, x in enumerate(features)}
    pyramid = network.fpn(list(stages.values()))
    stages |= {f"fpn{i}": x for i, x in enumerate(pyramid)}
    logits, deltas = network.rpn(pyramid)
    stages |= {"rpn_cls3": logits[3][0], "rpn_reg3": deltas[3][0]}
    own, scores = select_proposals(
        [x[0] for x in logits], [x[0] for x in deltas], prepared.resized_hw, max_proposals=1000
    )
    # near-equal scores may swap places: the sorted scores are compared, not single boxes
    stages["proposal_scores"] = scores
    if len(own) != len(proposals):
        raise ValueError(f"{len(own)} proposals, expected {len(proposals)}")
    pooled = pool_rois(pyramid, [proposals[:32]], BOX_POOL)
    roi_cls, roi_reg = network.box_head(pooled)
    return stages | {
        "roi_feat": pooled,
        "roi_level": assign_levels(proposals[:32]),
        "roi_cls": roi_cls,
        "roi_reg": roi_reg,
    }


@torch.inference_mode()
def _record_taps(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    if not isinstance(network, Classifier):
        raise TypeError(f"expected a classifier, got {type(network).__name__}")
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    modules = dict(network.named_modules())
    names = ["backbone.stem", "backbone.stages.0.0", "backbone.stages.3", "norm", "head"]
    names += [f"backbone.downsamples.{i}" for i in range(3)]
    parts = ["position1", "norm1", "mixer", "mlp", *(f"mixer.{part}" for part in _MIXER_PARTS)]
    names += [TAPPED_BLOCK, *(f"{TAPPED_BLOCK}.{part}" for part in parts)]
    handles = [
        modules[name].register_forward_hook(
            lambda _module, inputs, output, name=name: seen.__setitem__(name, (inputs[0], output))
        )
        for name in names
    ]
    network(images)
    for handle in handles:
        handle.remove()
    return _named_taps(seen, modules[f"{TAPPED_BLOCK}.mixer"])


_MIXER_PARTS = ("x_proj", "dt_proj", "state_fusion", "out_norm")


def _named_taps(seen: dict[str, tuple[Tensor, Tensor]], mixer: Any) -> dict[str, Tensor]:
    def block(part: str) -> tuple[Tensor, Tensor]:
        return seen[f"{TAPPED_BLOCK}.{part}"]

    projected = block("mixer.x_proj")[1]
    delta = block("mixer.dt_proj")[1]
    channels_first = {
        "block_cpe1": block("position1")[1],
        "ssm_u": block("mixer.x_proj")[0],
        "ssm_delta_raw": delta,
        "ssm_dt": F.softplus(delta + mixer.dt_bias),
        "ssm_B": projected[..., mixer.dt_rank : mixer.dt_rank + 1],
        "ssm_C": projected[..., mixer.dt_rank + 1 :],
        "ssm_h": block("mixer.state_fusion")[0],
        "ssm_h_fused": block("mixer.state_fusion")[1],
    }
    channels_last = {
        "stem": seen["backbone.stem"][1],
        "layers_0_blocks_0": seen["backbone.stages.0.0"][1],
        **{f"stage{i}": seen[f"backbone.downsamples.{i}"][1] for i in range(3)},
        "stage3": seen["backbone.stages.3"][1],
        "final_norm": seen["norm"][1].flatten(1, 2),
        "pooled": seen["head"][0],
        "block_in": seen[TAPPED_BLOCK][0],
        "block_ln_1": block("norm1")[1],
        "ssm_y": block("mixer.out_norm")[0],
        "ssm_out": block("mixer")[1],
        "block_mlp": block("mlp")[1],
        "block_out": seen[TAPPED_BLOCK][1],
    }
    taps = {name: value[0] for name, value in channels_last.items()}
    return taps | {name: value[0].permute(2, 0, 1) for name, value in channels_first.items()}
