"""What Ray's proxies cost: the same stub, pictures and generator without them and with them.

python -m loadtests.bench_ray --out loadtests/results/ray-proxy-cpu.json

Plain service in one process; one replica behind HAProxy; one replica behind Ray's own proxy, which
`smserve ray` does not use by itself. They take turns. Client, proxy and service share the cores of
this machine, so the ratios tell more than the figures.
"""

import argparse
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.report import Row, cpu_name, write_report
from loadtests.generator.payloads import jpeg_pictures, raw_payloads
from loadtests.generator.plan import LoadPlan
from loadtests.generator.run import run_load
from loadtests.own_server import ServerProcess, smserve_process
from loadtests.ray_cluster import RayCluster

_PLAIN: Final = "plain"
_ONE: Final = ("--replicas", "1", "--cpus", "2")
# the form that is measured against
_FORMS: Final[dict[str, Callable[[], ServerProcess]]] = {
    _PLAIN: lambda: smserve_process(backend="stub", frontends="0"),
    "ray, HAProxy": lambda: RayCluster(*_ONE, log__level="warning"),
    "ray, own proxy": lambda: RayCluster(*_ONE, "--proxy", "ray", log__level="warning"),
}
_P50: Final = "one client, latency p50"
_RATE: Final = "16 clients, throughput"


class RequestsFailedError(RuntimeError):
    """A figure would say nothing."""


def measure(url: str, seconds: float) -> dict[str, float]:
    """Both figures of a running service: milliseconds and requests/s."""
    pictures = jpeg_pictures(500, 375, number=16, target_bytes=50_000)
    found = {}
    for name, connections in ((_P50, 1), (_RATE, 16)):
        plan = LoadPlan(urls=(url,), duration_s=seconds + 1, warm_up_s=1, connections=connections)
        result = run_load(plan, raw_payloads("/classify", pictures))
        if result.errors or set(result.statuses) != {200}:
            raise RequestsFailedError(f"{name}: {result.statuses}, {dict(result.errors)}")
        found[name] = 1e3 * result.accepted.percentile(50) if name == _P50 else result.images_per_s
    return found


def main() -> int:
    """Measure every form several times, in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    args = parser.parse_args()
    figures: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    load_before = os.getloadavg()
    for _ in range(args.rounds):
        for form, server in _FORMS.items():
            with server() as running:
                for name, value in measure(running.url, args.seconds).items():
                    figures[form, name].append(value)
                    print(f"{form:16} {name:26} {value:9.2f}", flush=True)
    rows = [
        Row(form, name, _unit(name), round(statistics.median(values), 3))
        for (form, name), values in figures.items()
    ]
    rows += [
        Row(form, f"{name}, times plain", "ratio", round(_ratio(figures, form, name), 3))
        for form, name in figures
        if form != _PLAIN
    ]
    if args.out:
        write_report(
            args.out,
            "ray-proxy",
            rows,
            cpu_name(),
            rounds=args.rounds,
            load_average_before=[round(one, 2) for one in load_before],
            note="median over the rounds; the machine was shared with other work",
            all_values={f"{form}: {name}": values for (form, name), values in figures.items()},
        )
    return 0


def _unit(name: str) -> str:
    return "ms" if name == _P50 else "requests/s"


def _ratio(figures: dict[tuple[str, str], list[float]], form: str, name: str) -> float:
    """The median of the ratios of each round."""
    pairs = zip(figures[form, name], figures[_PLAIN, name], strict=True)
    return statistics.median(one / plain for one, plain in pairs)


if __name__ == "__main__":
    sys.exit(main())
