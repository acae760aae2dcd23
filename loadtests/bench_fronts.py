"""What front ends cost: small pictures in front of a stub engine, closed loops.

python -m loadtests.bench_fronts --out loadtests/results/fronts-cpu.json [--clients 16,64]

The stub takes 3 ms a batch whatever its size, so that front ends, messages and decoding are what is
measured. Server and generator share the machine.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

from benchmarks.report import GrowingReport, Row
from loadtests.generator.payloads import jpeg_pictures, raw_payloads
from loadtests.generator.plan import LoadPlan
from loadtests.http_levels import measure_own_level
from loadtests.long_run import exit_on_sigterm
from loadtests.own_server import smserve_process
from loadtests.workloads import PICTURES
from model.config import TaskName

_DIFFERENT: Final = 64
_WARM_UP_S: Final = 1.0


def main() -> int:
    """Each number of clients, as often as asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fronts", default="2")
    parser.add_argument("--clients", default="16,64", help="commas between")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each level")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    exit_on_sigterm()
    report = GrowingReport(args.out, "fronts", frontends=args.fronts)
    width, height, size = PICTURES[TaskName.CLASSIFY]
    pictures = jpeg_pictures(width, height, number=_DIFFERENT, target_bytes=size)
    payloads = raw_payloads("/classify", pictures)
    settings = {"backend": "stub", "frontends": args.fronts, "stub__batch_ms": "3"}
    for repeat in range(1, args.repeats + 1):
        with smserve_process(is_inherited=True, **settings) as server:
            for clients in map(int, args.clients.split(",")):
                plan = LoadPlan(
                    urls=(server.url,),
                    duration_s=args.seconds + _WARM_UP_S,
                    warm_up_s=_WARM_UP_S,
                    connections=clients,
                )
                case = f"c{clients}-run-{repeat}"
                _, rows = measure_own_level(
                    case, server.url, payloads, plan, pid=server.pid, task=TaskName.CLASSIFY
                )
                spent = sum(row.value for row in rows if "smserve-front" in row.metric)
                report.add([*rows, Row(case, "cpu of all fronts", "ms/image", round(spent, 3))])
    return 0


if __name__ == "__main__":
    sys.exit(main())
