"""Model files describe themselves, load strictly, and fail with names."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.checkpoint import (
    CheckpointError,
    build_network,
    load_network,
    load_weights,
    read_spec,
    save_model,
)
from model.config import VARIANTS, InputConfig, ModelSpec, TaskName, variant

SPEC = ModelSpec(
    name="test",
    task=TaskName.CLASSIFY,
    variant="demo",
    class_names=("cat", "dög", "cup"),
    input=InputConfig(short=64, crop=64),
    source_sha256="ab" * 32,
    demo=True,
)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return build_network(SPEC).state_dict()


def test_a_file_comes_back_as_it_was(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, state, SPEC)
    assert read_spec(path) == SPEC
    network, spec = load_network(path)
    assert spec == SPEC
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_half_precision_files_load_as_float32(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "model.safetensors"
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_model(path, half, SPEC)
    network, _ = load_network(path)
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_missing_unexpected_misshapen_and_broken_weights_are_named(
    state: dict[str, torch.Tensor],
) -> None:
    broken = dict(state)
    del broken["head.bias"]
    broken["surplus.weight"] = torch.zeros(2)
    broken["norm.weight"] = torch.zeros(3)
    broken["norm.bias"] = torch.full((256,), torch.nan)
    with pytest.raises(CheckpointError) as failure:
        load_weights(build_network(SPEC), broken)
    message = str(failure.value)
    for part in (
        "1 missing (head.bias)",
        "1 unexpected (surplus.weight)",
        "norm.weight: (3,) instead of (256,)",
        "1 not finite (norm.bias)",
    ):
        assert part in message


def test_long_lists_of_keys_are_shortened(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"and \d+ more"):
        load_weights(build_network(SPEC), {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable safetensors"),
        (b"PK\x03\x04 a zip file, perhaps a .pth", "not a readable safetensors"),
        (None, "not a readable safetensors"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_spec(path)


@pytest.mark.parametrize(
    "change",
    [
        {"task": "caption"},
        {"variant": "huge"},
        {"input": {"short": 3, "longer": 4}},
        {"surprise": 1},
        {"class_names": 7},
    ],
)
def test_wrong_metadata_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "x.safetensors"
    raw = json.loads(SPEC.to_json()) | change
    save_file({"a": torch.zeros(1)}, path, metadata={"smserve": json.dumps(raw)})
    with pytest.raises(CheckpointError, match="not a model spec"):
        read_spec(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="smserve convert"):
        read_spec(path)


def test_unknown_variants_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=", ".join(VARIANTS)):
        variant("large")


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, state, SPEC)
    before = path.read_bytes()

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("model.checkpoint.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        save_model(path, state, replace(SPEC, name="new"))
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
