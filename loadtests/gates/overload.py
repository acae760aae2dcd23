"""Three times more than the service can do costs little of what it can.

python -m loadtests.gates.overload --out loadtests/results/gate-overload.json

The stub's times set the capacity; a closed loop finds it. Then requests arrive at three times that
rate, whatever the answers: goodput stays at 90 % of the peak, accepted requests keep their
deadline, refusals come at once, memory stays flat.
"""

import statistics
from collections.abc import Sequence
from typing import Final

from loadtests.gates.gate import GateOptions, GateReport, classify_payloads, run_main
from loadtests.generator.histogram import LatencyHistogram
from loadtests.generator.plan import LoadPlan
from loadtests.generator.processes import ProcessSample, ProcessWatch
from loadtests.generator.run import run_load

_DEADLINE_S: Final = 2.0
_TIMES_CAPACITY: Final = 3.0
_GOODPUT: Final = 0.9
_MIB: Final = 1024 * 1024
# 16 images in 160 ms, so that the processor is not the limit at three times that
_STUB: Final = {
    "stub__batch_ms": "40",
    "stub__image_ms": "7.5",
    "batch__max_images": "16",
    "timeouts__request_ms": str(int(1000 * _DEADLINE_S)),
}


def run(options: GateOptions) -> GateReport:
    """Peak first, then the overload."""
    report = GateReport("overload", options)
    payloads = classify_payloads()
    duration_s = options.pick(5, 62)
    with options.service(**_STUB) as server:
        peak_plan = LoadPlan(
            urls=(server.url,), duration_s=options.pick(2.5, 10), warm_up_s=1, connections=48
        )
        peak = run_load(peak_plan, payloads).images_per_s
        report.at_least("peak", peak, 1, "images/s")
        plan = LoadPlan(
            urls=(server.url,),
            duration_s=duration_s,
            warm_up_s=2.0,
            rate=max(1.0, _TIMES_CAPACITY * peak),
            connections=2048,
        )
        with ProcessWatch(server.pid) as watch:
            result = run_load(plan, payloads)
    accepted = result.accepted
    report.at_least("goodput / peak", result.images_per_s / max(1.0, peak), _GOODPUT, "ratio")
    # in CI the generator, the service and other work share two cores: requests are sent late
    late_s = options.pick(0.5, 0.0)
    report.at_most("accepted p99", accepted.percentile(99), _DEADLINE_S + late_s, "s")
    report.note("accepted p50", accepted.percentile(50), "s")
    refused = result.latencies[429]
    report.at_least("refused", len(refused), 1, "requests")
    _judge_refusals(report, refused, is_short=options.is_short)
    others = sum(n for status, n in result.statuses.items() if status not in (200, 429))
    report.at_most("other answers", others, 0.01 * result.offered, "requests")
    report.equal("without an answer", sum(result.errors.values()), 0, "requests")
    report.at_most("memory growth", _growth_mib(watch.samples), options.pick(60, 30), "MiB")
    report.note("generator lateness max", result.late, "s")
    return report


def _judge_refusals(report: GateReport, refused: LatencyHistogram, *, is_short: bool) -> None:
    """They come at once; of a short run beside other work, half of them soon."""
    if is_short:
        report.at_most("refused p50", refused.percentile(50), 0.25, "s")
        report.note("refused p99", refused.percentile(99), "s")
    else:
        report.note("refused p50", refused.percentile(50), "s")
        report.at_most("refused p99", refused.percentile(99), 0.05, "s")


def _growth_mib(samples: Sequence[tuple[float, Sequence[ProcessSample]]]) -> float:
    """Of all processes together, from the second quarter to the last: the first one warms up."""
    sums = [sum(one.rss for one in processes) / _MIB for _, processes in samples]
    quarter = max(1, len(sums) // 4)
    return statistics.median(sums[-quarter:]) - statistics.median(sums[quarter : 2 * quarter])


if __name__ == "__main__":
    run_main(run, __doc__)
