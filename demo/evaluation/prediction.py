"""Run a predictor over many pictures, batched by shape."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from model.predictor import Predictor, Prepared
from model.results import Params, Result

Truth = TypeVar("Truth")

# pictures that are held at once; batches are formed among them
_WINDOW = 128


def predict_all(
    predictor: Predictor,
    pictures: Iterable[tuple[NDArray[np.uint8], Truth]],
    params: Params,
    *,
    batch: int,
    total: int,
    title: str,
) -> Iterator[tuple[Result, Truth]]:
    """Results in the order of the pictures.

    Args:
        pictures: (H, W, 3) uint8 with whatever is known about it.
        batch: pictures of one shape that go through the network together.
        total: number of pictures, for the progress bar.
    """
    shown = iter(track(pictures, title, total=total, transient=True))
    while window := list(islice(shown, _WINDOW)):
        prepared = [predictor.prepare(rgb) for rgb, _ in window]
        for item, raw, (_, truth) in zip(
            prepared, _infer(predictor, prepared, params, batch), window, strict=True
        ):
            yield predictor.finish(raw, item), truth


def _infer(predictor: Predictor, prepared: list[Prepared], params: Params, batch: int) -> list[Any]:
    raws: list[Any] = [None] * len(prepared)
    order = sorted(range(len(prepared)), key=lambda i: prepared[i].shape)
    start = 0
    while start < len(order):
        shape = prepared[order[start]].shape
        stop = start
        while stop < len(order) and stop - start < batch and prepared[order[stop]].shape == shape:
            stop += 1
        group = order[start:stop]
        found = predictor.infer([prepared[i] for i in group], [params] * len(group))
        for i, raw in zip(group, found, strict=True):
            raws[i] = raw
        start = stop
    return raws
