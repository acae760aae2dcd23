"""Many clients at once with mixed tasks, sizes and bad inputs, against a running server.

    smserve serve &
    python loadtests/mixed_load.py --url http://127.0.0.1:8000 --pid $!

Every request must be answered, and no answer may be a 5xx other than 503 and 504. Exit status 1
otherwise, and also when the server's memory is not flat: after a warm-up phase, the last rounds
may not need more than `--max-growth-mib` more than the first ones.
"""

import argparse
import asyncio
import io
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from loadtests.result_file import cpu_name, write_result

TASKS: Final = ("classify", "detect", "segment")
SIZES: Final = ((64, 48), (320, 240), (640, 480), (333, 777), (1, 300), (1600, 1200))
BY_DESIGN: Final = frozenset({503, 504})
MIB: Final = 1024 * 1024


@dataclass(frozen=True)
class Shot:
    """One request."""

    kind: str
    path: str
    content: bytes
    params: dict[str, str]


@dataclass(frozen=True)
class Hit:
    """What became of a request; status 0 when there was no answer."""

    kind: str
    status: int
    seconds: float
    error: str = ""


def photo(width: int, height: int, seed: int) -> bytes:
    """A JPEG with blotches."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(1, height // 16), max(1, width // 16), 3), np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def bad_contents() -> list[bytes]:
    """Nothing, text, half a picture, a bomb."""
    whole = photo(320, 240, 0)
    bomb = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(bomb, "PNG")
    return [b"", b"this is not a picture", whole[:200], bomb.getvalue(), b"%PDF-1.7"]


def build_shots(number: int, seed: int) -> list[Shot]:
    """A reproducible mixture: three quarters good, the rest broken or with bad parameters."""
    rng = np.random.default_rng(seed)
    good = [photo(width, height, index) for index, (width, height) in enumerate(SIZES)]
    bad = bad_contents()
    shots = []
    for _ in range(number):
        path = f"/{TASKS[rng.integers(len(TASKS))]}"
        draw = rng.random()
        if draw < 0.75:
            params = {"output": "overlay"} if rng.random() < 0.1 else {}
            shots.append(Shot(f"good{path}", path, good[rng.integers(len(good))], params))
        elif draw < 0.95:
            shots.append(Shot("bad picture", path, bad[rng.integers(len(bad))], {}))
        else:
            shots.append(Shot("bad parameter", path, good[0], {"no_such": "1"}))
    return shots


async def fire(client: httpx.AsyncClient, shot: Shot) -> Hit:
    """Send one request and wait for its answer."""
    started = time.perf_counter()
    try:
        response = await client.post(shot.path, params=shot.params, content=shot.content)
    except httpx.HTTPError as exc:
        return Hit(shot.kind, 0, time.perf_counter() - started, type(exc).__name__)
    return Hit(shot.kind, response.status_code, time.perf_counter() - started)


async def run_round(url: str, concurrency: int, shots: Sequence[Shot]) -> list[Hit]:
    """All shots, `concurrency` of them at any time."""
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    timeout = httpx.Timeout(120)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=timeout) as client:
        return await asyncio.gather(*(fire(client, shot) for shot in shots))


def percentile(values: Sequence[float], share: float) -> float:
    """Of sorted or unsorted values; 0 when there are none."""
    return float(np.percentile(values, share)) if len(values) else 0.0


def summarise(
    hits: Sequence[Hit], seconds: float, memory_mib: Sequence[float]
) -> list[dict[str, Any]]:
    """Rows of the result file."""
    rows: list[dict[str, Any]] = []

    def add(case: str, metric: str, unit: str, value: float) -> None:
        rows.append({"case": case, "metric": metric, "unit": unit, "value": round(value, 3)})

    for status, number in sorted(Counter(hit.status for hit in hits).items()):
        name = f"status {status}" if status else "no answer"
        add("all", name, "requests", number)
    add("all", "throughput", "requests/s", len(hits) / seconds)
    for kind in sorted({hit.kind for hit in hits}):
        times = [hit.seconds * 1000 for hit in hits if hit.kind == kind and hit.status]
        for share in (50, 95, 99):
            add(kind, f"latency p{share}", "ms", percentile(times, share))
    if memory_mib:
        add("server", "rss before", "MiB", memory_mib[0])
        add("server", "rss after warm-up", "MiB", memory_mib[1])
        add("server", "rss after", "MiB", memory_mib[-1])
        add("server", "rss growth after warm-up", "MiB", growth_mib(memory_mib))
    return rows


def growth_mib(memory_mib: Sequence[float]) -> float:
    """From the second round on: median of the last third minus median of the first third."""
    settled = memory_mib[2:] or memory_mib[-1:]
    third = max(1, len(settled) // 3)
    return statistics.median(settled[-third:]) - statistics.median(settled[:third])


def verdicts(hits: Sequence[Hit], memory_mib: Sequence[float], max_growth_mib: float) -> list[str]:
    """What is wrong; empty when all is well."""
    wrong = []
    lost = Counter(hit.error for hit in hits if not hit.status)
    if lost:
        wrong.append(f"requests without an answer: {dict(lost)}")
    failed = Counter(h.status for h in hits if h.status >= 500 and h.status not in BY_DESIGN)
    if failed:
        wrong.append(f"server errors: {dict(failed)}")
    accepted = [hit for hit in hits if hit.kind.startswith("bad") and hit.status == 200]
    if accepted:
        wrong.append(f"{len(accepted)} bad requests were answered with 200")
    if not any(hit.status == 200 for hit in hits):
        wrong.append("no request succeeded")
    if memory_mib and growth_mib(memory_mib) > max_growth_mib:
        wrong.append(f"memory grew by {growth_mib(memory_mib):.1f} MiB")
    return wrong


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--pid", type=int, help="of the server, to watch its memory")
    parser.add_argument("--concurrency", type=int, default=200)
    parser.add_argument("--requests", type=int, default=400, help="per round")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-growth-mib", type=float, default=100)
    parser.add_argument("--out", type=Path, help="result file")
    return parser.parse_args()


def main() -> int:
    """Run all rounds, print, write the result file."""
    arguments = parse_arguments()
    server = psutil.Process(arguments.pid) if arguments.pid else None
    memory_mib = [server.memory_info().rss / MIB] if server else []
    hits: list[Hit] = []
    started = time.perf_counter()
    for number in range(arguments.rounds):
        shots = build_shots(arguments.requests, arguments.seed + number)
        hits += asyncio.run(run_round(arguments.url, arguments.concurrency, shots))
        if server:
            memory_mib.append(server.memory_info().rss / MIB)
        statuses = dict(Counter(hit.status for hit in hits[-len(shots) :]))
        print(f"round {number + 1}: {statuses}, {memory_mib[-1:]} MiB", flush=True)
    rows = summarise(hits, time.perf_counter() - started, memory_mib)
    for row in rows:
        print(f"{row['case']:16} {row['metric']:26} {row['value']:>10} {row['unit']}")
    if arguments.out:
        write_result(arguments.out, benchmark="mixed-load", device=cpu_name(), rows=rows)
    wrong = verdicts(hits, memory_mib, arguments.max_growth_mib)
    for line in wrong:
        print(f"FAILED: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
