"""Many clients at once with mixed tasks, sizes and bad inputs.

    python -m loadtests.mixed_load
    python -m loadtests.mixed_load --url http://127.0.0.1:8000 --pid 4711

Without `--url` it starts a server of its own and stops it. Every request must be answered, and no
answer may be a 5xx other than 503 and 504. Exit status 1 otherwise, and also when the server's
memory is not flat: after the warm-up rounds, the last rounds may not need more than
`--max-growth-mib` more than the first ones.
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
from typing import Final

import httpx
import numpy as np
import psutil
from PIL import Image

from benchmarks.report import Row, cpu_name, write_report
from loadtests.long_run import exit_on_sigterm
from loadtests.own_server import own_server

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


@dataclass(frozen=True)
class Memory:
    """Resident memory of the server, MiB: before, after every round, and the highest ever.

    The first `warm_up` rounds are left out of growth and slope.
    """

    before: float
    after_rounds: Sequence[float]
    peak: float
    warm_up: int

    @property
    def settled(self) -> Sequence[float]:
        return self.after_rounds[self.warm_up :] or self.after_rounds[-1:]

    @property
    def growth(self) -> float:
        """Median of the last third minus median of the first third of the settled rounds."""
        third = max(1, len(self.settled) // 3)
        return statistics.median(self.settled[-third:]) - statistics.median(self.settled[:third])

    @property
    def slope(self) -> float:
        """Of the straight line through the settled rounds, MiB per round."""
        if len(self.settled) < 2:
            return 0.0
        return float(np.polyfit(np.arange(len(self.settled)), self.settled, 1)[0])


def resident_mib(pid: int) -> float:
    """Resident memory of a process now."""
    return float(psutil.Process(pid).memory_info().rss) / MIB


def peak_mib(pid: int, seen: Sequence[float]) -> float:
    """Highest resident memory ever, where the system tells it, else the highest seen."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return max(seen)
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def summarise(hits: Sequence[Hit], seconds: float, memory: Memory | None) -> list[Row]:
    """Rows of the result file."""
    rows = []
    for status, number in sorted(Counter(hit.status for hit in hits).items()):
        rows.append(Row("all", f"status {status}" if status else "no answer", "requests", number))
    rows.append(Row("all", "throughput", "requests/s", round(len(hits) / seconds, 2)))
    for kind in sorted({hit.kind for hit in hits}):
        times = [hit.seconds * 1000 for hit in hits if hit.kind == kind and hit.status]
        rows += [
            Row(kind, f"latency p{share}", "ms", round(percentile(times, share), 1))
            for share in (50, 95, 99)
        ]
    if memory is not None:
        figures = {
            "rss before": memory.before,
            "rss after warm-up": memory.settled[0],
            "rss after": memory.after_rounds[-1],
            "rss peak": memory.peak,
            "rss growth after warm-up": memory.growth,
        }
        rows += [Row("server", name, "MiB", round(mib, 1)) for name, mib in figures.items()]
        rows.append(Row("server", "rss slope after warm-up", "MiB/round", round(memory.slope, 2)))
    return rows


def verdicts(hits: Sequence[Hit], memory: Memory | None, max_growth_mib: float) -> list[str]:
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
    if memory is not None and memory.growth > max_growth_mib:
        wrong.append(f"memory grew by {memory.growth:.1f} MiB, at most {max_growth_mib:g} allowed")
    return wrong


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", help="of a running server; default: start one")
    parser.add_argument("--pid", type=int, help="of the server at --url, to watch its memory")
    parser.add_argument("--concurrency", type=int, default=200)
    parser.add_argument("--requests", type=int, default=400, help="per round")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=2, help="rounds not judged for growth")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-growth-mib", type=float, default=100)
    parser.add_argument("--out", type=Path, help="result file")
    return parser.parse_args()


def drive(arguments: argparse.Namespace, url: str, pid: int | None) -> int:
    """All rounds against one server; print, write the result file, judge."""
    before = resident_mib(pid) if pid else 0.0
    after_rounds: list[float] = []
    hits: list[Hit] = []
    started = time.perf_counter()
    for number in range(arguments.rounds):
        shots = build_shots(arguments.requests, arguments.seed + number)
        answered = asyncio.run(run_round(url, arguments.concurrency, shots))
        hits += answered
        note = ""
        if pid:
            after_rounds.append(resident_mib(pid))
            note = f", {after_rounds[-1]:.0f} MiB"
        statuses = dict(sorted(Counter(hit.status for hit in answered).items()))
        print(f"round {number + 1}: {statuses}{note}", flush=True)
    seconds = time.perf_counter() - started
    memory = None
    if pid:
        memory = Memory(before, after_rounds, peak_mib(pid, after_rounds), arguments.warm_up)
    rows = summarise(hits, seconds, memory)
    for row in rows:
        print(f"{row.case:16} {row.metric:26} {row.value:>10} {row.unit}")
    if arguments.out:
        write_report(
            arguments.out,
            "mixed-load",
            rows,
            cpu_name(),
            rss_after_rounds_mib=[round(mib, 1) for mib in after_rounds],
        )
    wrong = verdicts(hits, memory, arguments.max_growth_mib)
    for line in wrong:
        print(f"FAILED: {line}")
    return 1 if wrong else 0


def main() -> int:
    """Against the given server, or one of its own."""
    arguments = parse_arguments()
    exit_on_sigterm()
    if arguments.url:
        return drive(arguments, arguments.url, arguments.pid)
    with own_server() as server:
        return drive(arguments, server.url, server.pid)


if __name__ == "__main__":
    sys.exit(main())
