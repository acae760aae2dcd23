"""The model behind a peer's server: the same file, steps and answer as in our own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtests.bare_engine import compute, decode, open_model, params_of, warm_up
from service.answers import AnswerOptions, build_answer


class PeerModel:
    """One open model, ready for batches up to a size.

    Args:
        largest_batch: all sizes up to it are compiled before the first request.
        has_random_weights: detection keeps everything it finds.
    """

    def __init__(self, path: Path, *, largest_batch: int, has_random_weights: bool) -> None:
        self._backend = open_model(path, largest_batch)
        self._params = params_of(self._backend.spec.task, has_random_weights=has_random_weights)
        self._has_random_weights = has_random_weights

    def warm_up(self, picture: bytes, largest_batch: int) -> None:
        """With all powers of two up to `largest_batch`."""
        size = 1
        while size <= largest_batch:
            warm_up(self._backend, [self.decode(picture)] * size, [self._params] * size)
            size *= 2

    def decode(self, picture: bytes) -> Any:
        return decode(self._backend, picture)

    def infer(self, batch: Sequence[Any]) -> list[Any]:
        """Of pictures that may have several shapes; results in their order."""
        by_shape: dict[tuple[int, int], list[int]] = {}
        for index, prepared in enumerate(batch):
            by_shape.setdefault(prepared.shape, []).append(index)
        results: list[Any] = [None] * len(batch)
        for indices in by_shape.values():
            params = [self._params] * len(indices)
            raws = compute(self._backend, [batch[index] for index in indices], params)
            for index, raw in zip(indices, raws, strict=True):
                results[index] = raw
        return results

    def answer(self, raw: Any, prepared: Any) -> Any:
        """What our own service would say."""
        height, width = prepared.original_hw
        result = self._backend.finish(raw, prepared)
        # our own service applies the request's threshold of 0 to the answer, too
        threshold = 0.0 if self._has_random_weights else None
        options = AnswerOptions(threshold=threshold)
        return build_answer(
            self._backend.spec, result, options, height=height, width=width, timings_ms={}
        )
