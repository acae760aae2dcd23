"""Checkpoints made for a test: hand-written pickles in the two containers, and small models."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from exporters.key_mapping import map_keys
from model.checkpoint import build_network
from model.config import PUBLISHED_INPUTS, ModelSpec, TaskName

MANIFESTS = Path(__file__).parents[1] / "data" / "golden" / "manifests"

WriteCheckpoint = Callable[..., Path]


@pytest.fixture(params=["zip", "legacy"])
def write_pickle(request: pytest.FixtureRequest, tmp_path: Path) -> WriteCheckpoint:
    """Writes pickle opcodes, and float32 storages, as a file of either format."""

    def write(data: bytes, storages: Mapping[str, bytes] | None = None) -> Path:
        path = tmp_path / "made.pth"
        if request.param == "zip":
            write_zip(path, data, storages or {})
        else:
            write_legacy(path, data, storages or {})
        return path

    return write


def write_zip(path: Path, data: bytes, storages: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("made/data.pkl", data)
        for key, content in storages.items():
            archive.writestr(f"made/data/{key}", content)


def write_legacy(path: Path, data: bytes, storages: Mapping[str, bytes]) -> None:
    stream = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        stream.write(pickle.dumps(value, protocol=2))
    stream.write(data)
    stream.write(pickle.dumps(list(storages), protocol=2))
    for content in storages.values():
        stream.write(struct.pack("<q", len(content) // 4) + content)
    path.write_bytes(stream.getvalue())


@pytest.fixture(params=list(TaskName))
def task(request: pytest.FixtureRequest) -> TaskName:
    chosen: TaskName = request.param
    return chosen


@pytest.fixture
def small_spec(task: TaskName) -> ModelSpec:
    """A model of the demo size with seven classes."""
    return ModelSpec(
        name="small",
        task=task,
        variant="demo",
        class_names=tuple(f"class {number}" for number in range(7)),
        input=PUBLISHED_INPUTS[task],
    )


@pytest.fixture
def our_state(small_spec: ModelSpec) -> dict[str, Tensor]:
    """Random weights under our keys."""
    torch.manual_seed(3)
    state = build_network(small_spec).state_dict()
    return {
        key: torch.randn(value.shape) if value.is_floating_point() else value.clone() + 5
        for key, value in state.items()
    }


@pytest.fixture
def official_state(task: TaskName, our_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under the authors' keys, as far as the small model has them."""
    keys = json.loads((MANIFESTS / f"{task}_tiny.json").read_text())["keys"]
    mapping = map_keys(keys)
    state = {key: our_state[ours] for ours, key in mapping.renamed.items() if ours in our_state}
    for ours, kernels in mapping.stacked.items():
        if ours in our_state:
            state |= {
                key: kernel[:, None].clone()
                for key, kernel in zip(kernels, our_state[ours], strict=True)
                if key is not None
            }
    return state | {key: torch.zeros(3) for key in mapping.dropped}
