"""The reference cases in half precision on a GPU: how far, and whether that is near enough.

Near enough is what PyTorch's own run of the plain network in the same dtype on the same device
reaches, where the answers are nearly undecided: the rounding of any implementation moves them.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.checkpoint import load_network
from model.compiled.pictures import normalised_rows
from model.compiled.predictor import CompiledPredictor, CompileOptions
from model.config import InputConfig, ModelSpec
from model.images import DecodeLimits, decode_rgb
from model.inference import optimise_for_inference
from model.masks import rle_to_mask
from model.predictor import Predictor
from model.results import Classification, Detections, Result, Segmentation
from tests.model import golden
from tests.model.golden_runs import PARAMS, published_model_file

KINDS: Final = ("photo", "tensor")
MIN_IOU: Final = 0.95
MAX_SCORE_GAP: Final = 0.02
# of the detections in float32, with weights that are random
MIN_FOUND: Final = 0.95
MIN_AGREEMENT: Final = 0.995
# in half precision, by how much a share may be below that of PyTorch's own run
MAX_FEWER_FOUND: Final = 0.05
MAX_LESS_AGREEMENT: Final = 0.002
FOUND: Final = f"share found with IoU > {MIN_IOU}, score within {MAX_SCORE_GAP}"
AGREEMENT: Final = "agreement of all pixels"
# and their keys in the comparison's report
OF_OBJECTS: Final = {
    "largest difference of a score": "max_score",
    "largest difference of a box, px": "max_box",
    "largest difference of a mask, share of the box": "max_mask",
}
# the key of the tolerance in a case's file
TOLERANCES: Final = {
    torch.float16: "reduced",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
}


@dataclass(frozen=True, slots=True)
class GpuRow:
    """One comparison.

    Attributes:
        case: name of the reference case.
        metric: what `value` is.
        ok: whether it is inside the tolerance; None where there is none.
        plain: the value of PyTorch's own run in the same dtype; None where there was none.
    """

    case: str
    metric: str
    value: float
    ok: bool | None
    plain: float | None = None


class _InDtype(nn.Module):
    """A network of another dtype that takes float32 images."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self._network = network.to(dtype)
        self._dtype = dtype

    def forward(self, images: Tensor, *rest: Any) -> Any:
        return self._network(images.to(self._dtype), *rest)


class GpuModels:
    """The published models on the device, one at a time: consecutive cases share them."""

    def __init__(self, dtype: torch.dtype, device: str = "cuda:0") -> None:
        self.dtype = dtype
        self._device = device
        self._manifest = ""
        self._loaded: tuple[nn.Module, ModelSpec] | None = None
        self._predictor: CompiledPredictor | None = None

    def get(self, info: dict[str, Any]) -> CompiledPredictor:
        """The model of a case, with the case's own input size."""
        network, own = self._load(info)
        if self._predictor is None or self._predictor.spec != own:
            options = CompileOptions(dtype=self.dtype, batch_buckets=(1,))
            self._predictor = None  # its memory first
            self._predictor = CompiledPredictor(network, own, device=self._device, options=options)
        return self._predictor

    def get_plain(self, info: dict[str, Any]) -> Predictor:
        """The same as PyTorch runs it, in the same dtype; only the post-processing is float32."""
        network, own = self._load(info)
        plain = _InDtype(deepcopy(optimise_for_inference(network)), self.dtype)
        return Predictor(plain, own, device=self._device)

    def _load(self, info: dict[str, Any]) -> tuple[nn.Module, ModelSpec]:
        """In float32, with the case's own input size."""
        if info["manifest"] != self._manifest or self._loaded is None:
            self._predictor = self._loaded = None
            with published_model_file(info["manifest"]) as path:
                self._loaded = load_network(path)
            self._manifest = info["manifest"]
        network, spec = self._loaded
        return network, replace(spec, input=_input_of(info, spec.input))


def case_names() -> list[str]:
    """All cases that are compared here, those of one model and input size together."""
    names = [name for kind in KINDS for name in golden.case_names(kind=kind)]
    infos = {name: golden.load_case(name)[0] for name in names}
    return sorted(names, key=lambda own: (infos[own]["manifest"], infos[own].get("scale", []), own))


def compare(name: str, models: GpuModels) -> list[GpuRow]:
    """Run one case: a photograph to its answer, or synthetic input to logits.

    Raises:
        RuntimeError: PyTorch's own run failed, out of memory most likely; without it there is
            nothing to hold the answer against.
    """
    info, ref = golden.load_case(name)
    predictor = models.get(info)
    if info["kind"] == "tensor":
        logits = _run_tensor(info, predictor).numpy()
        return [_close(name, logits, info, ref, models.dtype)]
    answer = _run_photo(info, predictor)
    if models.dtype == torch.float32 or isinstance(answer, Classification):
        return compare_photo(name, answer, models.dtype)
    try:
        plain = _run_photo(info, models.get_plain(info))
    except RuntimeError as exc:
        raise RuntimeError(f"PyTorch's own run in {models.dtype} failed: {exc}") from exc
    return beside_plain(
        compare_photo(name, answer, models.dtype), compare_photo(name, plain, models.dtype)
    )


def compare_photo(name: str, result: Result, dtype: torch.dtype) -> list[GpuRow]:
    """The answer for a photograph against the reference in float32, by fixed limits.

    The weights are random, so that many answers are nearly undecided. The reference tells which
    detections and which pixels must be right all the same.

    - Classification: the best class is the same, probabilities within the case's tolerance.
    - Detection: all of those within the case's tolerance, 95 % of them with an IoU above 0.95 and
      a score within 0.02.
    - Segmentation: 99.5 % of those agree.
    """
    info, ref = golden.load_case(name)
    if isinstance(result, Classification):
        return list(_compare_classes(name, result, info, ref))
    if isinstance(result, Segmentation):
        return list(_compare_pixels(name, result, ref))
    return list(_compare_objects(name, result, info, ref, TOLERANCES[dtype]))


def beside_plain(rows: Sequence[GpuRow], plain: Sequence[GpuRow]) -> list[GpuRow]:
    """The rows of an answer in half precision beside those of PyTorch's own run.

    Which decides how many of all pixels must agree. A single case of detections decides nothing:
    of its few objects luck moves a larger share than an error would, see `mean_found`.
    """
    together = []
    for own, other in zip(rows, plain, strict=True):
        ok = own.ok
        if own.metric == AGREEMENT:
            ok = own.value >= min(MIN_AGREEMENT, other.value - MAX_LESS_AGREEMENT)
        elif own.metric in (FOUND, *OF_OBJECTS):
            ok = None
        together.append(replace(own, ok=ok, plain=other.value))
    return together


def mean_found(rows: Sequence[GpuRow]) -> GpuRow | None:
    """The share of detections found, mean over the cases, held against PyTorch's own run.

    None where no case has both.
    """
    found = [
        (own.value, own.plain) for own in rows if own.metric == FOUND and own.plain is not None
    ]
    if not found:
        return None
    value, plain = (float(np.mean(shares)) for shares in zip(*found, strict=True))
    case = f"mean of {len(found)} detection cases"
    return GpuRow(case, FOUND, value, value >= plain - MAX_FEWER_FOUND, plain)


def _compare_classes(
    name: str, result: Classification, info: dict[str, Any], ref: dict[str, NDArray[Any]]
) -> Iterator[GpuRow]:
    expected = _softmax(ref["logits"])
    is_same = int(result.probabilities.argmax()) == int(expected.argmax())
    yield GpuRow(name, "top 1 is the same", float(is_same), is_same)
    gap = float(np.abs(result.probabilities - expected).max())
    limit = info["tolerance"]["probability"]["reduced"]
    yield GpuRow(name, "largest difference of a probability", gap, gap <= limit)


def _compare_pixels(
    name: str, result: Segmentation, ref: dict[str, NDArray[Any]]
) -> Iterator[GpuRow]:
    same = result.label_map == ref["argmax"]
    yield GpuRow(name, AGREEMENT, float(np.mean(same)), None)
    sure = np.unpackbits(ref["sure_reduced"])[: same.size].reshape(same.shape).astype(np.bool_)
    share = float(np.mean(same[sure]))
    yield GpuRow(name, "agreement where the margin is clear", share, share > MIN_AGREEMENT)


def _compare_objects(
    name: str,
    result: Detections,
    info: dict[str, Any],
    ref: dict[str, NDArray[Any]],
    tolerance: str,
) -> Iterator[GpuRow]:
    compare_module = golden.module("compare")
    got: dict[str, Any] = {
        "boxes": result.boxes,
        "scores": result.scores,
        "labels": result.class_ids,
    }
    robust = np.flatnonzero(ref["robust"])
    index, _ = compare_module.match(got, ref, MIN_IOU)
    near = [
        j >= 0 and abs(float(ref["scores"][i]) - float(result.scores[j])) <= MAX_SCORE_GAP
        for i, j in enumerate(index)
    ]
    share = float(np.mean(np.array(near)[robust]))
    yield GpuRow(name, FOUND, share, share >= MIN_FOUND)
    if tolerance not in info["tolerance"]:
        return
    want = dict(
        ref,
        stable=ref["robust"],
        masks=compare_module.unpack_bits(ref["masks"], info["masks_shape"]),
    )
    got["masks"] = np.stack([rle_to_mask(rle) for rle in result.masks or ()])
    ok, report = compare_module.detections(got, want, info["tolerance"][tolerance])
    for metric, key in OF_OBJECTS.items():
        yield GpuRow(name, metric, report[key], ok)


def _close(
    name: str,
    logits: NDArray[Any],
    info: dict[str, Any],
    ref: dict[str, NDArray[Any]],
    dtype: torch.dtype,
) -> GpuRow:
    got = golden.thinned(logits, info["arrays"]["logits"]["what"])
    expected = ref["logits"]
    tolerance = info["tolerance"][TOLERANCES[dtype]]
    ok, report = golden.module("compare").close(got.reshape(expected.shape), expected, tolerance)
    return GpuRow(name, "largest difference of a logit", float(report.get("max_abs", np.nan)), ok)


def _run_photo(info: dict[str, Any], predictor: CompiledPredictor | Predictor) -> Result:
    data = (golden.ROOT / info["photo"]["file"]).read_bytes()
    prepared: Any = predictor.prepare(decode_rgb(data, limits=DecodeLimits()))
    (raw,) = predictor.infer([prepared], [PARAMS[info["task"]]])
    return predictor.finish(raw, prepared)


def _run_tensor(info: dict[str, Any], predictor: CompiledPredictor) -> Tensor:
    """(B, K) or (B, K, h, w) float32 on the host."""
    images = torch.from_numpy(golden.module("fill").make_input(*info["input"]["make_input"]))
    rows = normalised_rows(images, predictor.dtype).to(predictor.device)
    logits: Tensor = predictor.forward_ungraphed(rows).float().cpu()
    return logits.movedim(-1, 1)


def _softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(shifted / shifted.sum())


def _input_of(info: dict[str, Any], config: InputConfig) -> InputConfig:
    if "scale" not in info:
        return config
    long, short = info["scale"]
    return replace(config, long=long, short=short)


def describe(own: GpuRow) -> str:
    """A value in words."""
    beside = "" if own.plain is None else f" (PyTorch: {own.plain:.4g})"
    return f"{own.metric}: {own.value:.4g}{beside}"


def outside(rows: Sequence[GpuRow]) -> list[GpuRow]:
    """Those that are not inside their tolerance."""
    return [row for row in rows if row.ok is False]
