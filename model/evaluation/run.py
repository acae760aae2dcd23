"""An evaluation from its data set to its figures, whoever computes the answers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from model.evaluation.journal import Journal
from model.evaluation.measure import Measure
from model.evaluation.samples import Dataset, Sample
from model.results import Result

TruthT = TypeVar("TruthT")


@dataclass(frozen=True, slots=True)
class Pending(Generic[TruthT]):
    """A picture to answer; only those of one block may share a batch."""

    sample: Sample[TruthT]
    block: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A picture without an answer.

    Attributes:
        is_readable: False when the picture itself is at fault.
    """

    name: str
    reason: str
    is_readable: bool


class Evaluation(Generic[TruthT]):
    """Which pictures are left to answer, and what their answers amount to.

    Pictures are counted off in blocks, and batches keep to them. A block that was not finished is
    answered again as a whole: rounding depends on what shares a batch, so only then does an
    interrupted evaluation end with the very figures of one that was not.

    Attributes:
        failures: pictures that could not be answered in this run.
        num_done: pictures with an answer, of this run or an earlier one.
    """

    def __init__(
        self,
        dataset: Dataset[TruthT],
        measure: Measure[TruthT],
        journal: Journal,
        *,
        block_size: int,
    ) -> None:
        self.dataset = dataset
        self.failures: list[Failure] = []
        self.num_done = 0
        self._measure, self._journal = measure, journal
        samples = dataset.samples
        blocks = [samples[i : i + block_size] for i in range(0, len(samples), block_size)]
        self._pending: list[Pending[TruthT]] = []
        for number, block in enumerate(blocks):
            if all(sample.name in journal.records for sample in block):
                for sample in block:
                    self._add(sample, journal.records[sample.name])
            else:
                self._pending += [Pending(sample, number) for sample in block]
        self.num_before = self.num_done

    @property
    def num_pending(self) -> int:
        """Pictures that this run has to answer, or had."""
        return len(self._pending)

    def pending(self) -> Iterator[Pending[TruthT]]:
        """The pictures that this run has to answer, in their order."""
        return iter(self._pending)

    def record(
        self, item: Pending[TruthT], result: Result, original_hw: tuple[int, int]
    ) -> dict[str, Any]:
        """Compare an answer with the truth; any thread. See `Measure.record`."""
        return self._measure.record(item.sample.truth, result, original_hw)

    def accept(self, item: Pending[TruthT], record: dict[str, Any]) -> None:
        """Write a record down and count it."""
        self._journal.append(item.sample.name, record)
        self._add(item.sample, record)

    def fail(self, item: Pending[TruthT], reason: str, *, is_readable: bool) -> Failure:
        """Note that a picture has no answer."""
        failure = Failure(item.sample.name, reason, is_readable)
        self.failures.append(failure)
        return failure

    def headline(self) -> str:
        """See `Measure.headline`."""
        return self._measure.headline()

    def metrics(self) -> dict[str, float]:
        """See `Measure.metrics`."""
        return self._measure.metrics()

    def _add(self, sample: Sample[TruthT], record: dict[str, Any]) -> None:
        self._measure.add(sample.truth, record)
        self.num_done += 1
