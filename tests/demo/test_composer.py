"""Composed pictures: repeatable, and labelled exactly."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from demo.compose import Composer, Scene, Split
from demo.compose.scene import MAX_OBJECTS


def digest(scene: Scene) -> str:
    found = hashlib.sha256()
    for key in ("image", "boxes", "labels", "masks", "semantic", "visible"):
        found.update(np.ascontiguousarray(scene[key]).tobytes())
    return found.hexdigest()


def scenes(pack: Path, count: int = 40, **kwargs: object) -> list[Scene]:
    composer = Composer(pack, **{"size": 128, "split": "train", "seed": 3, **kwargs})
    return [composer.scene() for _ in range(count)]


def test_the_same_seed_gives_the_same_bytes(pack: Path) -> None:
    first = [digest(scene) for scene in scenes(pack, 12)]
    again = [digest(scene) for scene in scenes(pack, 12)]
    other = [digest(scene) for scene in scenes(pack, 12, seed=4)]
    assert first == again
    assert len(set(first)) == 12
    assert not set(first) & set(other)


def test_singles_repeat_too(pack: Path) -> None:
    one, two = Composer(pack, 96, seed=5), Composer(pack, 96, seed=5)
    for _ in range(8):
        (image, label), (image2, label2) = one.single(), two.single()
        assert label == label2
        assert np.array_equal(image, image2)


def test_masks_are_disjoint_and_make_the_semantic_map(pack: Path) -> None:
    for scene in scenes(pack):
        assert scene["masks"].sum(0).max(initial=0) <= 1
        expected = np.zeros((128, 128), np.uint8)
        for mask, label in zip(scene["masks"], scene["labels"], strict=True):
            expected[mask] = label + 1
        assert np.array_equal(scene["semantic"], expected)


def test_boxes_are_tight(pack: Path) -> None:
    for scene in scenes(pack):
        for mask, box in zip(scene["masks"], scene["boxes"], strict=True):
            rows, columns = np.nonzero(mask)
            tight = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert tuple(box) == tight


def test_objects_stay_recognisable(pack: Path) -> None:
    made = scenes(pack, 80)
    counts = [len(scene["labels"]) for scene in made]
    assert max(counts) <= MAX_OBJECTS
    assert np.mean(counts) > 1.5
    for scene in made:
        assert (scene["visible"] >= 0.3).all()
        assert (scene["visible"] <= 1).all()
        assert all(mask.sum() >= 36 for mask in scene["masks"])


def test_every_class_appears(pack: Path) -> None:
    seen = {int(label) for scene in scenes(pack, 80) for label in scene["labels"]}
    assert seen == {0, 1, 2}


def test_pictures_may_be_oblong(pack: Path) -> None:
    composer = Composer(pack, (160, 96), seed=1)
    for _ in range(6):
        scene = composer.scene()
        assert scene["image"].shape == (96, 160, 3)
        assert scene["image"].dtype == np.uint8
        assert scene["masks"].shape[1:] == (96, 160)
        assert composer.single()[0].shape == (96, 160, 3)


def test_a_single_shows_the_wanted_class(pack: Path) -> None:
    composer = Composer(pack, 96, seed=2)
    for class_id in range(3):
        image, label = composer.single(class_id)
        assert label == class_id
        assert image.std() > 5


@pytest.mark.parametrize(
    ("split", "designs"),
    [
        (Split.TRAIN, {"plain", "striped"}),
        (Split.HELDOUT, {"plain", "striped"}),
        (Split.UNSEEN, {"twemoji"}),
    ],
)
def test_labelled_stickers_come_from_the_designs_of_the_split(
    pack: Path, split: Split, designs: set[str]
) -> None:
    sources = {
        source.split(":")[0] for scene in scenes(pack, split=split) for source in scene["sources"]
    }
    assert sources == designs


def test_training_sees_no_heldout_photograph(pack: Path) -> None:
    def tone(split: Split) -> set[bool]:
        photographs = Composer(pack, 64, split).pack.photographs
        means = [np.asarray(image).mean((0, 1)) for image in photographs]
        return {bool(red > blue) for red, _, blue in means}

    # training photographs of the pack are reddish, the others bluish
    assert tone(Split.TRAIN) == {True}
    assert tone(Split.HELDOUT) == {False}
    assert tone(Split.UNSEEN) == {False}


def test_a_pack_without_the_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"classes": [], "sprites": [], "photographs": []}')
    with pytest.raises(ValueError, match="no photographs or no cut-outs for the split unseen"):
        Composer(tmp_path, 64, Split.UNSEEN)
