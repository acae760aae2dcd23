"""The way of a picture up to its pixels: counted, admitted, decoded."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.config import ModelSpec
from model.images import (
    DecodeLimits,
    ImageDecodeError,
    ImageTooLargeError,
    UnsupportedImageError,
    check_size,
    decode_rgb,
    is_quick_jpeg,
    jpeg_size,
    read_header,
)
from service.engine.base import Picture
from service.engine.budget import Allowance, ClientShares, Turnstile
from service.errors import ClientGoneError, DeadlineExceededError, ServiceError
from service.pool import CpuPool
from service.settings import Settings
from service.telemetry import Metrics

PlacedT = TypeVar("PlacedT")

_DECODE_REASONS: Final = {
    ImageDecodeError: "damaged",
    UnsupportedImageError: "unsupported",
    ImageTooLargeError: "too_large",
}


class Intake:
    """Bounds what is held before the device; belongs to the event loop.

    Attributes:
        images: accepted and not yet answered.
    """

    def __init__(
        self, settings: Settings, pool: CpuPool, metrics: Metrics, *, max_images: int
    ) -> None:
        self._pool = pool
        self._metrics = metrics
        queue, limits = settings.queue, settings.limits
        self.images = Allowance(max_images, "images")
        self._clients = ClientShares(queue.max_images_per_key)
        self._source_pixels = Allowance(queue.max_source_pixels, "pixels of pictures")
        self._decode_turn = Turnstile(queue.max_decode_pixels)
        self._limits = DecodeLimits(max_pixels=limits.max_pixels, max_side=limits.max_side)
        self._all_answered = asyncio.Event()

    @contextmanager
    def admitted(
        self, spec: ModelSpec, client: str, *, retry_after_s: Callable[[], int]
    ) -> Iterator[None]:
        """One image, from its admission to its answer; counts it by its outcome.

        Args:
            client: of a `Job`.

        Raises:
            QueueFullError: too many images are in work.
            ClientLimitError: too many of this client.
        """
        outcome = "failed"
        try:
            with (
                self.images.hold(1, retry_after_s=retry_after_s),
                self._clients.hold(client, retry_after_s=retry_after_s),
            ):
                yield
            outcome = "ok"
        except (ImageDecodeError, UnsupportedImageError, ImageTooLargeError) as exc:
            outcome = "invalid"
            self._metrics.decode_errors.labels(_DECODE_REASONS[type(exc)]).inc()
            raise
        except ServiceError as exc:
            outcome = _outcome_of(exc)
            raise
        except asyncio.CancelledError:
            outcome = "dropped"
            raise
        finally:
            self._metrics.images.labels(spec.task, spec.name, outcome).inc()
            if not self.images.held:
                self._all_answered.set()

    async def size(self, image: Picture) -> int:
        """Pixels of a picture, of an encoded one from its header; at most what is accepted.

        Raises:
            ImageDecodeError: and its siblings of `model.images`.
        """
        if not isinstance(image, bytes):
            height, width = (int(side) for side in image.shape[:2])
            check_size(height, width, self._limits)
            return height * width
        # a JPEG's header is read in microseconds; others may hide much work in front of the size
        found = jpeg_size(image)
        if found is None:
            header = await self._pool.run(read_header, image)
            found = header.height, header.width
        # what is over the limit is refused by the decoder, with a better message
        return min(found[0] * found[1], self._limits.max_pixels)

    @contextmanager
    def holding(self, pixels: int, *, retry_after_s: Callable[[], int]) -> Iterator[None]:
        """Hold so many pixels of pictures inside the block.

        Raises:
            QueueFullError: too many are held.
        """
        with self._source_pixels.hold(pixels, retry_after_s=retry_after_s):
            yield

    def turn(self, pixels: int) -> AbstractAsyncContextManager[None]:
        """Waits until so many pixels may be decoded, too."""
        return self._decode_turn.hold(pixels)

    async def decode(
        self,
        image: Picture,
        place: Callable[[NDArray[np.uint8]], PlacedT],
        *,
        out: NDArray[np.uint8] | None = None,
        release: Callable[[], None] = lambda: None,
        at_once: bool = False,
    ) -> PlacedT:
        """Decode what is not pixels yet, as a rule on the pool; to be called within a `turn`.

        Args:
            place: what becomes of (H, W, 3) uint8, upright; called on the thread that decoded.
            out: where pixels may be written, see `decode_rgb`.
            release: called if nothing comes of it, when `place` can no longer be running.
            at_once: without the pool, if that takes little.

        Raises:
            ImageDecodeError: and its siblings of `model.images`.
        """
        if at_once and isinstance(image, bytes) and is_quick_jpeg(image):
            try:
                return self._decode(image, place, out)
            except BaseException:
                release()
                raise
        return await self._pool.run_with(release, self._decode, image, place, out)

    def _decode(
        self,
        image: Picture,
        place: Callable[[NDArray[np.uint8]], PlacedT],
        out: NDArray[np.uint8] | None,
    ) -> PlacedT:
        if isinstance(image, bytes):
            image = decode_rgb(image, limits=self._limits, out=out)
        return place(image)

    async def drained(self, *, timeout_s: float) -> bool:
        """Wait until everything accepted is answered; False when some is left."""
        self._all_answered.clear()
        if not self.images.held:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._all_answered.wait()
        except TimeoutError:
            return False
        return True


def _outcome_of(error: ServiceError) -> str:
    if isinstance(error, (DeadlineExceededError, ClientGoneError)):
        return "dropped"
    return "rejected" if error.status in (429, 503) else "failed"
