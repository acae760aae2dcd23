import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from exporters.official import OfficialCheckpointError, open_official

CHECKPOINTS = Path(__file__).parents[1] / "data" / "checkpoints"
TOY_SHAPES = {
    "conv.weight": (4, 3, 3, 3),
    "conv.bias": (4,),
    "norm.weight": (4,),
    "norm.bias": (4,),
    "norm.running_mean": (4,),
    "norm.running_var": (4,),
    "norm.num_batches_tracked": (),
    "head.weight": (5, 4),
    "head.bias": (5,),
}


def read_all(path: Path, *, ema: bool = False) -> dict[str, Tensor]:
    with open_official(path) as checkpoint:
        return checkpoint.read(checkpoint.weights(ema=ema))


def raw_storages(path: Path) -> list[bytes]:
    """Contents of the storages, in the order in which the file numbers them."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if "/data/" in name]
        names = [name for name in names if name.rsplit("/", 1)[1].isdigit()]
        return [archive.read(n) for n in sorted(names, key=lambda n: int(n.rsplit("/", 1)[1]))]


@pytest.mark.parametrize(
    "name",
    ["official_classification.pth", "official_openmmlab.pth", "official_openmmlab_numpy1.pth"],
)
def test_genuine_files_give_the_bytes_of_their_storages(name: str) -> None:
    state = read_all(CHECKPOINTS / name)
    prefix = "" if "classification" in name else "backbone."
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        prefix + key: shape for key, shape in TOY_SHAPES.items()
    }
    # the savers number storages in the order of the state dict, which they write first
    storages = raw_storages(CHECKPOINTS / name)[: len(state)]
    for value, raw in zip(state.values(), storages, strict=True):
        dtype = np.int64 if value.dtype == torch.int64 else np.float32
        assert np.array_equal(value.numpy().ravel(), np.frombuffer(raw, dtype=dtype))


def test_the_moving_average_is_the_second_set_of_weights() -> None:
    path = CHECKPOINTS / "official_classification.pth"
    plain, average = read_all(path), read_all(path, ema=True)
    assert plain.keys() == average.keys()
    assert all(plain[key].shape == average[key].shape for key in plain)
    # one step of the toy training, decay 0.99, from a mean of zero
    assert torch.allclose(average["norm.running_mean"], 0.01 * plain["norm.running_mean"])
    with open_official(path) as checkpoint:
        assert checkpoint.has_ema


def test_files_without_an_average_say_so() -> None:
    with (
        pytest.raises(OfficialCheckpointError, match="no 'model_ema' in the file, found: meta"),
        open_official(CHECKPOINTS / "official_openmmlab.pth") as checkpoint,
    ):
        checkpoint.weights(ema=True)


def test_class_names_come_from_the_dataset_facts() -> None:
    with open_official(CHECKPOINTS / "official_openmmlab.pth") as checkpoint:
        assert checkpoint.class_names() == ("person", "bicycle", "car", "motorcycle", "airplane")
    with open_official(CHECKPOINTS / "official_classification.pth") as checkpoint:
        assert checkpoint.class_names() is None


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_every_dtype_stride_and_sharing_survives(tmp_path: Path, is_zip: bool) -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = OrderedDict(
        [
            ("transposed", base.T),
            ("every_second", base[1::2, ::3]),
            ("same", base),
            ("scalar", torch.tensor(7, dtype=torch.int64)),
            ("empty", torch.zeros(0, 3)),
            ("parameter", torch.nn.Parameter(torch.randn(3))),
        ]
    )
    dtypes = ("float64", "float16", "bfloat16", "int32", "int16", "int8", "uint8", "bool")
    for name in dtypes:
        state[name] = torch.tensor([0, 1, 0, 1]).to(getattr(torch, name))
    path = tmp_path / "state.pth"
    torch.save({"model": state}, path, _use_new_zipfile_serialization=is_zip)
    found = read_all(path)
    assert list(found) == list(state)
    for key, value in state.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value.detach())
    assert found["same"].data_ptr() == found["transposed"].data_ptr()


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("location", ["cuda:0", "hpu", "cpu"])
def test_the_device_of_the_writer_does_not_matter(
    tmp_path: Path, is_zip: bool, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: location)
    path = tmp_path / "gpu.pth"
    torch.save({"model": {"a": torch.ones(3)}}, path, _use_new_zipfile_serialization=is_zip)
    assert read_all(path)["a"].device.type == "cpu"


def test_attributes_of_an_ordered_dict_are_accepted(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    state = module.state_dict()
    assert hasattr(state, "_metadata")
    torch.save(state, tmp_path / "bare.pth")
    found = read_all(tmp_path / "bare.pth")
    assert all(torch.equal(found[key], value) for key, value in state.items())


def test_the_prefix_of_data_parallel_training_is_taken_off(tmp_path: Path) -> None:
    torch.save({"state_dict": {"module.a": torch.ones(1)}}, tmp_path / "parallel.pth")
    assert list(read_all(tmp_path / "parallel.pth")) == ["a"]


def test_tensors_that_are_not_asked_for_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "resume.pth"
    torch.save({"model": {"a": torch.ones(2)}, "optimizer": {"b": torch.full((64,), 3.0)}}, path)
    data = bytearray(path.read_bytes())
    # damage the optimizer's storage: its checksum no longer fits, reading it would fail
    position = data.find(np.full(64, 3.0, dtype=np.float32).tobytes())
    assert position > 0
    data[position] ^= 0xFF
    path.write_bytes(data)
    assert torch.equal(read_all(path)["a"], torch.ones(2))


def test_big_endian_storages_are_turned_round(tmp_path: Path) -> None:
    assert sys.byteorder == "little"
    values = torch.tensor([1.5, -2.25, 3.0])
    source, swapped = tmp_path / "little.pth", tmp_path / "big.pth"
    torch.save({"model": {"a": values}}, source)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(swapped, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("/byteorder"):
                content = b"big"
            elif name.endswith("/data/0"):
                content = np.frombuffer(content, dtype="<f4").astype(">f4").tobytes()
            new.writestr(name, content)
    assert torch.equal(read_all(swapped)["a"], values)


def test_files_without_a_state_dict_say_what_they_hold(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "other.pth")
    with pytest.raises(OfficialCheckpointError, match=r"no state dict .*, found: epoch, loss"):
        read_all(tmp_path / "other.pth")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(OfficialCheckpointError, match="holds a list, expected a dict"):
        read_all(tmp_path / "list.pth")
    torch.save({"model": {"a": torch.ones(1), "b": 3}}, tmp_path / "mixed.pth")
    with pytest.raises(OfficialCheckpointError, match="b in the state dict is a int"):
        read_all(tmp_path / "mixed.pth")


def test_a_missing_file_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(OfficialCheckpointError, match=r"absent\.pth: No such file"):
        read_all(tmp_path / "absent.pth")
