"""What the access layer adds to one request, on one core.

python -m tests.service.access_bench
"""

import asyncio
import logging
import os
import statistics
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access import AccessMiddleware
from service.lifecycle import Lifecycle
from service.logs import BackgroundHandler, JsonFormatter
from service.request_record import record_of
from service.telemetry import Metrics

STAGES = ("read", "decode", "queue", "infer", "postprocess", "encode")
NUM_REQUESTS, NUM_ROUNDS = 5_000, 5


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    record = record_of(scope)
    record.model, record.num_images = "stub-classify", 1
    record.stage_seconds = dict.fromkeys(STAGES, 0.001)
    await _bare(scope, receive, send)


async def _bare(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-length", b"2"), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


def _scope() -> dict[str, Any]:
    names = ("host", "user-agent", "accept", "content-type", "content-length")
    return {
        "type": "http",
        "method": "POST",
        "path": "/classify",
        "client": ("127.0.0.1", 50000),
        "headers": [(name.encode(), b"something") for name in names],
    }


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: Message) -> None:
    pass


async def _microseconds(app: ASGIApp) -> float:
    """Per request, the median of some rounds."""
    rounds = []
    for _ in range(NUM_ROUNDS):
        started = time.perf_counter()
        for _ in range(NUM_REQUESTS):
            await app(_scope(), _receive, _send)
        rounds.append((time.perf_counter() - started) / NUM_REQUESTS * 1e6)
        # the thread that writes the lines gets its turn
        await asyncio.sleep(0.2)
    return statistics.median(rounds)


async def _main() -> None:
    metrics = Metrics()
    layer = AccessMiddleware(_answer, metrics=metrics, lifecycle=Lifecycle(metrics), models=tuple)
    logger = logging.getLogger("service")
    logger.propagate = False
    bare = await _microseconds(_bare)
    for level in ("WARNING", "INFO"):
        handler = BackgroundHandler(os.open(os.devnull, os.O_WRONLY), capacity=1_000_000)
        handler.setFormatter(JsonFormatter())
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        cost = await _microseconds(layer) - bare
        print(f"log level {level}: {cost:.1f} us per request")  # noqa: T201
        handler.close()


if __name__ == "__main__":
    asyncio.run(_main())
