"""What the tasks' measures have in common."""

from typing import Any, Protocol, TypeVar

from model.results import Result

TruthT_contra = TypeVar("TruthT_contra", contravariant=True)


class Measure(Protocol[TruthT_contra]):
    """Compares answers with the truth, a picture at a time.

    `record` is thread-safe and keeps nothing: its records are written down, and read again when an
    evaluation goes on later. All others belong to one thread. The order of the records makes no
    difference to the metrics.
    """

    def record(
        self, truth: TruthT_contra, result: Result, original_hw: tuple[int, int]
    ) -> dict[str, Any]:
        """What there is to know about one answer, as JSON can hold it.

        Args:
            original_hw: height and width of the upright picture.

        Raises:
            TruthError: the annotation cannot be used.
            ClassMismatchError: the whole data set is for another model.
            ValueError: the answer cannot be measured.
        """
        ...

    def add(self, truth: TruthT_contra, record: dict[str, Any]) -> None:
        """Take one record in."""
        ...

    def headline(self) -> str:
        """A few words about the records so far, for a progress bar."""
        ...

    def metrics(self) -> dict[str, float]:
        """All figures, 0..1 each, NaN where one is not defined.

        Raises:
            ValueError: there are no records.
        """
        ...
