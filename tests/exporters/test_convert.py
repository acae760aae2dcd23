import hashlib
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from exporters.convert import ConversionRequest, convert
from exporters.errors import ConversionError
from model.checkpoint import load_network, read_spec
from model.config import PUBLISHED_INPUTS, ModelSpec, TaskName

State = dict[str, Tensor]
FILE_OF_TASK = {TaskName.CLASSIFY: "model"}


def save(path: Path, task: TaskName, state: State, **more: object) -> Path:
    torch.save({FILE_OF_TASK.get(task, "state_dict"): OrderedDict(state), **more}, path)
    return path


@pytest.fixture
def source(tmp_path: Path, task: TaskName, official_state: State) -> Path:
    return save(tmp_path / "official.pth", task, official_state)


@pytest.fixture
def request_of_seven(small_spec: ModelSpec) -> ConversionRequest:
    return ConversionRequest(class_names=small_spec.class_names)


def test_a_checkpoint_becomes_the_same_model(
    tmp_path: Path,
    task: TaskName,
    source: Path,
    our_state: State,
    small_spec: ModelSpec,
    request_of_seven: ConversionRequest,
) -> None:
    target = tmp_path / "model.safetensors"
    summary = convert(source, target, request_of_seven)
    network, spec = load_network(target)
    loaded = network.state_dict()
    assert loaded.keys() == our_state.keys()
    assert all(torch.equal(loaded[key], our_state[key]) for key in our_state)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert spec == replace(
        small_spec, name=f"spatial-mamba-demo-{task}", source_sha256=digest, demo=False
    )
    assert spec.input == PUBLISHED_INPUTS[task]
    assert summary.spec == spec
    assert summary.num_bytes == target.stat().st_size
    assert summary.num_parameters == sum(p.numel() for p in network.parameters())
    assert bool(summary.dropped) == (task is TaskName.SEGMENT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", source.name]


@pytest.mark.parametrize("task", [TaskName.CLASSIFY], indirect=True)
def test_the_moving_average_is_taken_when_asked_for(
    tmp_path: Path, task: TaskName, official_state: State, request_of_seven: ConversionRequest
) -> None:
    average = {key: value + 1 for key, value in official_state.items()}
    source = save(tmp_path / "ema.pth", task, official_state, model_ema=OrderedDict(average))
    target = tmp_path / "model.safetensors"
    assert convert(source, target, replace(request_of_seven, ema=True)).ema
    loaded = load_network(target)[0].state_dict()
    assert torch.equal(loaded["head.weight"], official_state["head.weight"] + 1)


def test_class_names_of_the_checkpoint_are_used(
    tmp_path: Path, task: TaskName, official_state: State
) -> None:
    names = ("wall", "bed ", "sky", "tree", "road", "sea", "rug")
    meta = {"dataset_meta": {"classes": names}}
    source = save(tmp_path / "own.pth", task, official_state, meta=meta)
    summary = convert(source, tmp_path / "model.safetensors", ConversionRequest())
    assert summary.class_source == "the checkpoint"
    assert summary.spec.class_names == ("wall", "bed", "sky", "tree", "road", "sea", "rug")


def test_a_wrong_number_of_class_names_is_refused(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "model.safetensors"
    with pytest.raises(ConversionError, match="the head has 7 classes, the published"):
        convert(source, target, ConversionRequest())
    with pytest.raises(ConversionError, match="names 2 classes, the head has 7"):
        convert(source, target, ConversionRequest(class_names=("a", "b")))
    assert not target.exists()


def test_what_was_asked_for_must_be_there(
    tmp_path: Path, task: TaskName, source: Path, request_of_seven: ConversionRequest
) -> None:
    target = tmp_path / "model.safetensors"
    other = next(name for name in TaskName if name != task)
    with pytest.raises(ConversionError, match=f"is a {task} checkpoint, asked for {other}"):
        convert(source, target, replace(request_of_seven, task=other))
    with pytest.raises(ConversionError, match="is of variant demo, asked for tiny"):
        convert(source, target, replace(request_of_seven, variant="tiny"))
    asked = replace(request_of_seven, task=task, variant="demo", name="mine")
    assert convert(source, target, asked).spec.name == "mine"


def test_missing_and_misshapen_weights_are_named(
    tmp_path: Path, task: TaskName, official_state: State, request_of_seven: ConversionRequest
) -> None:
    prefix = "" if task is TaskName.CLASSIFY else "backbone."
    broken = dict(official_state)
    del broken[f"{prefix}layers.0.blocks.0.cpe1.bias"]
    broken[f"{prefix}layers.1.blocks.0.ln_1.weight"] = torch.ones(5)
    source = save(tmp_path / "broken.pth", task, broken)
    with pytest.raises(ConversionError) as caught:
        convert(source, tmp_path / "model.safetensors", request_of_seven)
    message = str(caught.value)
    assert "1 missing (first: backbone.stages.0.0.position1.bias)" in message
    assert "backbone.stages.1.0.norm1.weight: (5,) instead of (64,)" in message


@pytest.mark.parametrize(
    ("suffix", "shape"),
    [("kernel_3", (64, 2, 3, 3)), ("kernel_3_1", (64, 3, 3)), ("kernel_3_2", (9, 1, 3, 3))],
)
@pytest.mark.parametrize("task", [TaskName.CLASSIFY], indirect=True)
def test_kernels_that_cannot_be_stacked_are_refused(
    tmp_path: Path,
    task: TaskName,
    official_state: State,
    request_of_seven: ConversionRequest,
    suffix: str,
    shape: tuple[int, ...],
) -> None:
    key = f"layers.0.blocks.0.self_attention.state_fusion.{suffix}"
    assert key in official_state
    source = save(tmp_path / "broken.pth", task, official_state | {key: torch.ones(shape)})
    with pytest.raises(ConversionError, match=r"1 misshapen .*state_fusion\.weight"):
        convert(source, tmp_path / "model.safetensors", request_of_seven)


@pytest.mark.parametrize("task", [TaskName.CLASSIFY], indirect=True)
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, task: TaskName, official_state: State, request_of_seven: ConversionRequest
) -> None:
    official_state["head.bias"][3] = float("nan")
    source = save(tmp_path / "broken.pth", task, official_state)
    with pytest.raises(ConversionError, match=r"1 tensors hold NaN .*head\.bias"):
        convert(source, tmp_path / "model.safetensors", request_of_seven)


def test_foreign_models_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    source = tmp_path / "resnet.pth"
    torch.save({"model": {"fc.weight": torch.ones(3, 4)}}, source)
    with pytest.raises(ConversionError, match="no classifier, Mask R-CNN or UPerNet head"):
        convert(source, target, ConversionRequest())
    torch.save({"model": {"head.weight": torch.ones(1000, 4)}}, source)
    with pytest.raises(ConversionError, match="depths and widths fit no variant, known: tiny"):
        convert(source, target, ConversionRequest())


@pytest.mark.parametrize("task", [TaskName.CLASSIFY], indirect=True)
def test_an_existing_file_is_kept_unless_told_otherwise(
    tmp_path: Path, source: Path, request_of_seven: ConversionRequest
) -> None:
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"precious")
    with pytest.raises(ConversionError, match="exists; overwrite it with --force"):
        convert(source, target, request_of_seven)
    assert target.read_bytes() == b"precious"
    convert(source, target, replace(request_of_seven, overwrite=True))
    assert read_spec(target).name == "spatial-mamba-demo-classify"


@pytest.mark.parametrize("task", [TaskName.CLASSIFY], indirect=True)
def test_bad_targets_and_names_are_refused(
    tmp_path: Path, source: Path, request_of_seven: ConversionRequest
) -> None:
    with pytest.raises(ConversionError, match=r"ends in \.safetensors"):
        convert(source, tmp_path / "model.pt", request_of_seven)
    with pytest.raises(ConversionError, match="no such folder"):
        convert(source, tmp_path / "absent" / "model.safetensors", request_of_seven)
    named = replace(request_of_seven, name="my model")
    with pytest.raises(ConversionError, match="model name 'my model', expected"):
        convert(source, tmp_path / "model.safetensors", named)
