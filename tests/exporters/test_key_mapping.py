import json
from pathlib import Path

import pytest
import torch

from exporters.errors import ConversionError
from exporters.key_mapping import map_keys, rename_state
from model.checkpoint import build_network
from model.config import PUBLISHED_INPUTS, ModelSpec, TaskName
from model.vocabulary import published_class_names

MANIFESTS = sorted(
    path
    for path in (Path(__file__).parents[1] / "data" / "golden" / "manifests").glob("*.json")
    if not path.stem.endswith("_eps")
)


def test_all_nine_published_models_have_a_manifest() -> None:
    assert len(MANIFESTS) == 9


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_published_keys_and_shapes_become_exactly_ours(path: Path) -> None:
    manifest = json.loads(path.read_text())
    task = TaskName(manifest["task"])
    spec = ModelSpec(
        name="published",
        task=task,
        variant=manifest["variant"],
        class_names=published_class_names(task),
        input=PUBLISHED_INPUTS[task],
    )
    with torch.device("meta"):
        ours = build_network(spec).state_dict()
        official = {key: torch.empty(fact["shape"]) for key, fact in manifest["keys"].items()}
        renamed = rename_state(official)
    assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in ours.items()}
    mapping = map_keys(official)
    assert len(mapping.used) + len(mapping.dropped) == len(official)
    assert all(key.startswith("auxiliary_head.") for key in mapping.dropped)
    assert bool(mapping.dropped) == (task is TaskName.SEGMENT)


def test_kernels_are_stacked_in_the_order_of_their_dilations() -> None:
    prefix = "layers.1.blocks.2.self_attention.state_fusion."
    # out of order on purpose
    values = {"kernel_3_2": 5.0, "kernel_3": 1.0, "kernel_3_1": 3.0}
    state = {prefix + name: torch.full((4, 1, 3, 3), value) for name, value in values.items()}
    renamed = rename_state(state)
    stacked = renamed["backbone.stages.1.2.mixer.state_fusion.weight"]
    assert stacked.shape == (3, 4, 3, 3)
    assert stacked[:, 0, 0, 0].tolist() == [1.0, 3.0, 5.0]


def test_a_missing_kernel_is_named() -> None:
    prefix = "layers.0.blocks.0.self_attention.state_fusion."
    state = {prefix + name: torch.zeros(4, 1, 3, 3) for name in ("kernel_3", "kernel_3_2")}
    with pytest.raises(ConversionError, match="needs kernel_3, kernel_3_1 and kernel_3_2"):
        rename_state(state)


def test_foreign_keys_are_named() -> None:
    with pytest.raises(ConversionError, match=r"2 keys are not .* first: fc\.weight, layer1\.0"):
        rename_state({key: torch.zeros(1) for key in ("fc.weight", "layer1.0.conv1.weight")})
