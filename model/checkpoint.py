"""Model files: safetensors whose metadata describe the model. Reading is strict."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kernels import FUSED, KernelOps
from model.classifier import Classifier
from model.config import ModelSpec, TaskName, variant
from model.mask_rcnn import MaskRCNN
from model.upernet import Segmenter

METADATA_KEY: Final = "smserve"
_NETWORKS: Final = {
    TaskName.CLASSIFY: Classifier,
    TaskName.DETECT: MaskRCNN,
    TaskName.SEGMENT: Segmenter,
}
_LISTED: Final = 5


class CheckpointError(ValueError):
    """A file that cannot be read as a model, or weights that do not belong to the model."""


def build_network(spec: ModelSpec, *, ops: KernelOps = FUSED) -> nn.Module:
    """The network a spec describes, with initial weights."""
    return _NETWORKS[spec.task](variant(spec.variant), spec.num_classes, ops=ops)


def read_spec(path: Path) -> ModelSpec:
    """What a model file says about itself, without reading its weights.

    Raises:
        CheckpointError: missing file, not a safetensors file, or no valid metadata.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as exc:
        raise CheckpointError(f"{path}: not a readable safetensors file: {exc}") from exc
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path}: no {METADATA_KEY!r} metadata; make model files with `smserve convert`"
        )
    try:
        return ModelSpec.from_json(metadata[METADATA_KEY])
    except ValueError as exc:
        raise CheckpointError(f"{path}: {exc}") from exc


def load_network(path: Path, *, ops: KernelOps = FUSED) -> tuple[nn.Module, ModelSpec]:
    """Build the network of a model file and load its weights, as float32 on the CPU.

    Raises:
        CheckpointError: unreadable file, wrong metadata, or keys or shapes that do not match.
    """
    spec = read_spec(path)
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as exc:
        raise CheckpointError(f"{path}: {exc}") from exc
    network = build_network(spec, ops=ops)
    try:
        load_weights(network, state)
    except CheckpointError as exc:
        raise CheckpointError(f"{path}: {exc}") from exc
    return network, spec


def load_weights(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy weights into a network, strictly; dtypes are converted.

    Raises:
        CheckpointError: keys or shapes differ, or a value is not finite; the message names up to
            five of each kind.
    """
    expected = network.state_dict()
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    misshapen = [
        f"{key}: {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & state.keys())
        if expected[key].shape != state[key].shape
    ]
    broken = sorted(key for key, value in state.items() if not torch.isfinite(value).all())
    kinds = {
        "missing": missing,
        "unexpected": unexpected,
        "misshapen": misshapen,
        "not finite": broken,
    }
    problems = [f"{len(keys)} {kind} ({_shortened(keys)})" for kind, keys in kinds.items() if keys]
    if problems:
        raise CheckpointError(f"the weights do not fit the model: {'; '.join(problems)}")
    network.load_state_dict(state)


def _shortened(keys: list[str]) -> str:
    more = [f"and {len(keys) - _LISTED} more"] if len(keys) > _LISTED else []
    return ", ".join(keys[:_LISTED] + more)


def save_model(path: Path, state: Mapping[str, Tensor], spec: ModelSpec) -> None:
    """Write weights and spec as one self-describing file; readers never see half a file.

    Args:
        state: our keys; any float dtype, stored as it is.
    """
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        save_file(tensors, part, metadata={METADATA_KEY: spec.to_json()})
        part.chmod(0o644)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
