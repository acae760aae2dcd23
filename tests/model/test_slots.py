"""Staging beside computing: who waits for whom, and what becomes of memory that is given up."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from model.compiled import pictures, staging
from model.compiled.pictures import ExactPictures
from model.compiled.slots import Slots
from model.compiled.staging import PictureStager
from model.config import InputConfig, ModelSpec, TaskName

CROP = InputConfig(short=32, crop=28)
CPU = torch.device("cpu")


@dataclass
class FakeMark:
    lane: "FakeLane"
    name: str

    def synchronize(self) -> None:
        self.lane.events.append(f"host waits for {self.name}")


@dataclass
class FakeLane:
    """Host and device memory that differ; a copy happens when somebody waits for it, not before."""

    events: list[str] = field(default_factory=list)
    pending: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    num_allocated: int = 0
    num_copies: int = 0
    num_marks: int = 0

    def allocate(self, nbytes: int) -> tuple[Tensor, Tensor]:
        self.num_allocated += 1
        self.events.append(f"allocate {nbytes}")
        host = torch.full((nbytes,), 0xAA, dtype=torch.uint8)
        return host, torch.full_like(host, 0x55)

    def send(self, host: Tensor, out: Tensor) -> FakeMark:
        self.num_copies += 1
        name = f"copy {self.num_copies}"
        self.pending[name] = (host, out)
        self.events.append(f"begin {name}")
        return FakeMark(self, name)

    def receive(self, sent: FakeMark, out: Tensor) -> None:
        host, target = self.pending.pop(sent.name)
        assert target.data_ptr() == out.data_ptr()
        target.copy_(host)
        self.events.append(f"stream waits for {sent.name}")

    def mark(self) -> FakeMark:
        self.num_marks += 1
        self.events.append(f"mark {self.num_marks}")
        return FakeMark(self, f"mark {self.num_marks}")


def pass_through(slots: Slots, values: Sequence[int]) -> None:
    slot = slots.take(len(values))
    slot.array[:] = values
    slot.send()
    assert slot.receive().tolist() == list(values)
    slot.release()


def test_a_batch_is_read_after_its_copy_and_the_slot_reused_after_its_reader() -> None:
    lane = FakeLane()
    slots = Slots(lane)
    for _ in range(2):
        pass_through(slots, [1, 2, 3])
    assert lane.events == [
        "allocate 3",
        "begin copy 1",
        "stream waits for copy 1",
        "mark 1",
        "host waits for mark 1",
        "begin copy 2",
        "stream waits for copy 2",
        "mark 2",
    ]


def test_a_prepared_batch_keeps_its_slot_while_halves_of_the_running_one_pass() -> None:
    slots = Slots(FakeLane())
    running, prepared = slots.take(4), slots.take(4)
    running.array[:], prepared.array[:] = 1, 2
    for slot in (running, prepared):
        slot.send()
    running.receive()
    running.release()
    for value in (3, 4):
        pass_through(slots, [value] * 2)
    assert prepared.receive().tolist() == [2] * 4


def test_slots_grow_and_are_kept() -> None:
    lane = FakeLane()
    slots = Slots(lane)
    for size in (10, 4, 11, 20, 3):
        pass_through(slots, list(range(size)))
    assert [event for event in lane.events if "allocate" in event] == ["allocate 10", "allocate 20"]


def test_a_batch_that_is_dropped_leaves_no_slot_behind_and_none_is_lacking() -> None:
    lane = FakeLane()
    slots = Slots(lane)
    for _ in range(5):
        slots.take(8).send()
    pass_through(slots, [7])
    pass_through(slots, [8])
    assert lane.num_allocated == 6


def test_no_more_than_two_slots_are_kept() -> None:
    lane = FakeLane()
    slots = Slots(lane)
    held = [slots.take(8) for _ in range(4)]
    for slot in held:
        slot.send()
        slot.receive()
        slot.release()
    again = [slots.take(8) for _ in range(3)]
    assert [slot in held for slot in again] == [True, True, False]


def test_a_slot_is_read_once() -> None:
    slots = Slots(FakeLane())
    slot = slots.take(1)
    with pytest.raises(RuntimeError, match="after it was sent"):
        slot.receive()
    slot.send()
    slot.receive()
    slot.release()
    with pytest.raises(RuntimeError, match="read once"):
        slot.receive()


def test_two_batches_of_pictures_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = FakeLane()
    monkeypatch.setattr(staging, "make_lane", lambda device: lane)
    stager = PictureStager("cpu", TaskName.CLASSIFY, CROP)
    batches = [np.full((40, 50, 3), value, dtype=np.uint8) for value in (9, 200)]
    first, second = (stager.stage([batch]) for batch in batches)
    for batch in batches:
        batch[:] = 0  # no longer needed
    for staged, value in ((first, 9), (second, 200)):
        out = torch.empty(staged.shape, dtype=torch.uint8)
        stager.resize(staged, out)
        assert out[..., :3].unique().tolist() == [value]
    assert lane.events[-4:] == [
        "stream waits for copy 1",
        "mark 1",
        "stream waits for copy 2",
        "mark 2",
    ]


def test_exact_pictures_pass_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = FakeLane()
    monkeypatch.setattr(pictures, "make_lane", lambda device: lane)
    spec = ModelSpec(
        name="exact", task=TaskName.CLASSIFY, variant="demo", class_names=("a", "b"), input=CROP
    )
    exact = ExactPictures(spec, CPU, torch.float16)
    rng = np.random.default_rng(0)
    batch = [exact.prepare(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(3)]
    staged, other = exact.stage(batch), exact.stage(batch[:1])
    out = torch.empty((3, 28, 28, 4), dtype=torch.float16)
    exact.load(staged, out)
    for got, own in zip(out, batch, strict=True):
        assert torch.equal(got, torch.as_tensor(own.pixels))
    exact.load(other, out[1:2])
    assert torch.equal(out[1], torch.as_tensor(batch[0].pixels))
    assert lane.num_allocated == 2
