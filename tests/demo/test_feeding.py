"""Feeding from other processes, and augmentation on the device."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from demo.training.augment import erase, flip_scenes, jitter_colours, shift_and_zoom, to_float
from demo.training.feed import Feed, Pool, Sample
from demo.training.sources import Singles


@dataclass(frozen=True)
class Failing:
    def __call__(self, worker: int) -> Iterator[Sample]:
        raise RuntimeError("cannot compose")
        yield {}


@dataclass(frozen=True)
class FailsFirst:
    inner: Singles

    def __call__(self, worker: int) -> Iterator[Sample]:
        if worker == 0:
            raise RuntimeError("the first worker cannot compose")
        yield from self.inner(worker)


def take_for(running: Feed, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        running.take(1, wait_s=0.2)


@pytest.fixture
def feed(pack: Path) -> Iterator[Feed]:
    source = Singles(pack, 48, seed=7)
    running = Feed(source, source.fields, workers=2, slots=8)
    yield running
    running.close()


def test_the_pool_is_refreshed_while_it_is_used(feed: Feed) -> None:
    pool = Pool(feed, 12, torch.device("cpu"), seed=0)
    pool.fill(12)
    first = pool.batch(6)
    assert first["image"].shape == (6, 48, 48, 3)
    assert first["image"].dtype == torch.uint8
    assert set(first["label"].tolist()) <= {0, 1, 2}
    assert first["image"].float().std() > 5
    before = pool.received
    pool.refresh(4, wait_s=30)
    assert before < pool.received <= before + 4
    assert len(pool) == 12


def test_workers_compose_different_pictures(feed: Feed) -> None:
    samples: list[Sample] = []
    while len(samples) < 20:
        samples += feed.take(20 - len(samples), wait_s=30)
    assert len({sample["image"].tobytes() for sample in samples}) == 20


def test_a_worker_that_dies_is_replaced_by_one_with_another_seed(pack: Path) -> None:
    source = FailsFirst(Singles(pack, 48, seed=0))
    running = Feed(source, source.inner.fields, workers=1, slots=2)
    try:
        samples: list[Sample] = []
        while len(samples) < 3:
            samples += running.take(1, wait_s=1)
        assert samples[0]["image"].std() > 5
    finally:
        running.close()


@pytest.mark.nightly
def test_workers_that_keep_dying_are_an_error(pack: Path) -> None:
    running = Feed(Failing(), Singles(pack, 48, seed=0).fields, workers=1, slots=2)
    try:
        with pytest.raises(RuntimeError, match="2 composing processes died"):
            take_for(running, seconds=60)
    finally:
        running.close()


def test_flipping_keeps_maps_boxes_and_picture_together() -> None:
    torch.manual_seed(0)
    batch = 16
    image = torch.zeros(batch, 20, 30, 3, dtype=torch.uint8)
    image[:, 4:9, 2:12] = 200
    instances = (image[..., 0] > 0).to(torch.uint8)
    boxes = torch.tensor([2.0, 4.0, 12.0, 9.0]).repeat(batch, 1, 1)
    out = flip_scenes(
        {"image": image, "semantic": instances * 3, "instances": instances, "boxes": boxes}
    )
    starts = set()
    for i in range(batch):
        x1, y1, x2, y2 = (int(v) for v in out["boxes"][i, 0])
        starts.add(x1)
        inside = torch.zeros(20, 30, dtype=torch.bool)
        inside[y1:y2, x1:x2] = True
        assert torch.equal(out["instances"][i] == 1, inside)
        assert torch.equal(out["semantic"][i] == 3, inside)
        assert torch.equal(out["image"][i, ..., 0] == 200, inside)
    assert starts == {2, 18}


def test_augmented_pictures_keep_shape_and_range_and_differ() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (1, 32, 40, 3), np.uint8)).repeat(8, 1, 1, 1)
    images = to_float(pixels)
    for augment in (jitter_colours, shift_and_zoom):
        out = augment(images)
        assert out.shape == (8, 3, 32, 40)
        assert out.min() >= 0
        assert out.max() <= 255.001
        assert not torch.allclose(out[0], out[1])
    erased = erase(images, share=1.0)
    changed = (erased != images).any(1).float().mean((1, 2))
    assert (changed > 0.005).all()
    assert (changed < 0.25).all()


def test_grey_pictures_have_equal_channels_before_the_gain() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, 8, 8) * 255
    grey = jitter_colours(images, grey=1.0)
    # a gain per channel remains: the channels are proportional to one another
    unclipped = grey.amax((1, 2, 3)) < 255
    for picture in grey[unclipped]:
        ratio = picture[0] / picture[1].clamp(min=1e-3)
        assert ratio.std() < 0.02
    assert unclipped.any()
