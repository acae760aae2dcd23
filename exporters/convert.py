"""Official `.pth` checkpoint -> self-describing `.safetensors` model file."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from exporters.errors import ConversionError
from exporters.inert_objects import TensorRef, shown
from exporters.key_mapping import KeyMapping, check_mapping, map_keys, stack_kernels
from exporters.official import OfficialCheckpoint, file_sha256, open_official
from model.checkpoint import build_network, save_model
from model.config import PUBLISHED_INPUTS, VARIANTS, ModelSpec, TaskName
from model.vocabulary import published_class_names

MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_LISTED: Final = 5
# the key whose presence tells the task, and whose rows tell the number of classes
_CLASS_KEYS: Final = {
    TaskName.DETECT: "roi_head.bbox_head.fc_cls.weight",
    TaskName.SEGMENT: "decode_head.conv_seg.weight",
    TaskName.CLASSIFY: "head.weight",
}
_WIDTH_KEY: Final = "patch_embed.conv3.1.conv.weight"
_BLOCK_KEY: Final = re.compile(r"(?:backbone\.)?layers\.(\d{1,3})\.blocks\.(\d{1,3})\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionRequest:
    """What the user said; None means: find out.

    Attributes:
        class_names: in the order of the class ids.
        ema: take the moving average of the weights.
        overwrite: replace an existing target.
    """

    task: TaskName | None = None
    variant: str | None = None
    class_names: Sequence[str] | None = None
    name: str | None = None
    ema: bool = False
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionSummary:
    """What was made.

    Attributes:
        class_source: where the class names came from, in words.
        num_parameters: elements of the tensors that training would change.
        dropped: official keys that inference does not use.
    """

    source: Path
    target: Path
    spec: ModelSpec
    class_source: str
    ema: bool
    num_tensors: int
    num_parameters: int
    num_bytes: int
    dropped: tuple[str, ...]


def convert(source: Path, target: Path, request: ConversionRequest) -> ConversionSummary:
    """Read a published checkpoint and write a model file, whole or not at all.

    Raises:
        OfficialCheckpointError: `source` cannot be read as data.
        ConversionError: it is no Spatial-Mamba checkpoint, not of the task or variant asked for,
            the class names do not fit, or `target` cannot be written.
    """
    _check_target(target, request)
    with open_official(source) as checkpoint:
        refs = checkpoint.weights(ema=request.ema)
        mapping = map_keys(refs)
        spec, class_source = _describe(source, checkpoint, refs, request)
        check_mapping(mapping)
        network = _empty_network(spec)
        _check_shapes(mapping, refs, {k: tuple(v.shape) for k, v in network.items()})
        tensors = checkpoint.read({key: refs[key] for key in mapping.used})
    state = _ordered_state(mapping, tensors, tuple(network))
    _check_finite(state)
    try:
        save_model(target, state, spec)
    except OSError as exc:
        raise ConversionError(f"cannot write {target}: {exc.strerror or exc}") from exc
    return ConversionSummary(
        source=source,
        target=target,
        spec=spec,
        class_source=class_source,
        ema=request.ema,
        num_tensors=len(state),
        num_parameters=sum(state[key].numel() for key in state if not _is_statistic(key)),
        num_bytes=target.stat().st_size,
        dropped=mapping.dropped,
    )


def find_task(keys: Mapping[str, TensorRef]) -> TaskName | None:
    """The task whose head the keys hold; None when there is no such head."""
    return next((task for task, key in _CLASS_KEYS.items() if key in keys), None)


def find_variant(refs: Mapping[str, TensorRef]) -> str | None:
    """The row of the variant table with the depths and the first width of these weights."""
    blocks: dict[int, int] = {}
    for key in refs:
        match = _BLOCK_KEY.match(key)
        if match:
            stage, block = int(match.group(1)), int(match.group(2))
            blocks[stage] = max(blocks.get(stage, 0), block + 1)
    depths = tuple(blocks[stage] for stage in sorted(blocks))
    stem = refs.get(_WIDTH_KEY) or refs.get(f"backbone.{_WIDTH_KEY}")
    width = stem.shape[0] if stem is not None and stem.shape else None
    for name, row in VARIANTS.items():
        if row.backbone.depths == depths and row.backbone.dims[0] == width:
            return name
    return None


def _check_target(target: Path, request: ConversionRequest) -> None:
    if target.suffix != ".safetensors":
        raise ConversionError(f"{target}: the name of a model file ends in .safetensors")
    if not target.parent.is_dir():
        raise ConversionError(f"{target.parent}: no such folder")
    if target.exists() and not request.overwrite:
        raise ConversionError(f"{target} exists; overwrite it with --force")
    if request.name is not None and not MODEL_NAME.fullmatch(request.name):
        raise ConversionError(
            f"model name {request.name!r}, expected up to 64 letters, digits, '.', '_' and '-'"
        )


def _describe(
    source: Path,
    checkpoint: OfficialCheckpoint,
    refs: Mapping[str, TensorRef],
    request: ConversionRequest,
) -> tuple[ModelSpec, str]:
    """The spec of the model file, and where its class names come from."""
    task = find_task(refs)
    if task is None:
        raise ConversionError(
            f"{source}: no classifier, Mask R-CNN or UPerNet head among the keys, expected one of "
            + ", ".join(_CLASS_KEYS.values())
        )
    if request.task is not None and request.task != task:
        raise ConversionError(f"{source} is a {task} checkpoint, asked for {request.task}")
    size = find_variant(refs)
    if size is None:
        rows = ", ".join(f"{name} {row.backbone.depths}" for name, row in VARIANTS.items())
        raise ConversionError(f"{source}: depths and widths fit no variant, known: {rows}")
    if request.variant not in (None, size):
        raise ConversionError(f"{source} is of variant {size}, asked for {request.variant}")
    head = refs[_CLASS_KEYS[task]].shape
    # the detection head has one more row, for the background
    num_classes = (head[0] if head else 0) - (task is TaskName.DETECT)
    names, class_source = _class_names(task, num_classes, checkpoint, request)
    spec = ModelSpec(
        name=request.name or f"spatial-mamba-{size}-{task}",
        task=task,
        variant=size,
        class_names=names,
        input=PUBLISHED_INPUTS[task],
        source_sha256=file_sha256(source),
    )
    return spec, class_source


def _class_names(
    task: TaskName, num_classes: int, checkpoint: OfficialCheckpoint, request: ConversionRequest
) -> tuple[tuple[str, ...], str]:
    if request.class_names is not None:
        given = tuple(request.class_names)
        if len(given) != num_classes:
            raise ConversionError(
                f"the class file names {len(given)} classes, the head has {num_classes}"
            )
        return given, "the given file"
    own = checkpoint.class_names()
    if own is not None and len(own) == num_classes:
        return own, "the checkpoint"
    published = published_class_names(task)
    if len(published) == num_classes:
        return published, "the published list"
    raise ConversionError(
        f"the head has {num_classes} classes, the published {task} models have {len(published)}; "
        "give a file with the names, one per line, with --classes"
    )


def _empty_network(spec: ModelSpec) -> dict[str, Tensor]:
    """State dict of the network that `spec` describes, without memory behind it."""
    with torch.device("meta"):
        return build_network(spec).state_dict()


def _check_shapes(
    mapping: KeyMapping, refs: Mapping[str, TensorRef], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse what does not fit the network, before anything large is read."""
    found = {ours: refs[key].shape for ours, key in mapping.renamed.items()}
    for ours, kernels in mapping.stacked.items():
        shape, *others = (refs[key].shape for key in kernels if key is not None)
        is_stackable = len(shape) == 4 and shape[1] == 1 and {shape} == {shape, *others}
        found[ours] = (len(kernels), shape[0], *shape[2:]) if is_stackable else shape
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    misshapen = [
        f"{key}: {found[key]} instead of {expected[key]}"
        for key in sorted(expected.keys() & found.keys())
        if found[key] != expected[key]
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    problems = [
        f"{len(keys)} {kind} (first: {', '.join(map(shown, keys[:_LISTED]))})"
        for kind, keys in kinds.items()
        if keys
    ]
    if problems:
        raise ConversionError(f"the weights do not fit the model: {'; '.join(problems)}")


def _ordered_state(
    mapping: KeyMapping, tensors: Mapping[str, Tensor], order: Sequence[str]
) -> dict[str, Tensor]:
    state = {ours: tensors[key] for ours, key in mapping.renamed.items()}
    for ours, kernels in mapping.stacked.items():
        state[ours] = stack_kernels([tensors[key] for key in kernels if key is not None])
    return {key: state[key] for key in order}


def _check_finite(state: Mapping[str, Tensor]) -> None:
    broken = [key for key, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise ConversionError(
            f"{len(broken)} tensors hold NaN or infinity (first: {', '.join(broken[:_LISTED])})"
        )


def _is_statistic(key: str) -> bool:
    return key.endswith(("running_mean", "running_var", "num_batches_tracked"))
