"""The stage that limits is named from the service's own figures."""

import subprocess
import sys

import pytest

from benchmarks.report import ROOT
from loadtests.limiting_stage import STAGES, explain
from loadtests.scrape import Scrape, scrape
from service import telemetry
from tests.service.processes import service_process

_STAGE = "smserve_stage_duration_seconds_sum"
Sample = tuple[str, dict[str, str], float]


def stages(task: str, requests: int, batch: int, **seconds: float) -> list[Sample]:
    """Samples after `requests` requests with one image each, which took these seconds in all."""
    own = {"task": task}
    return [
        *((_STAGE, {**own, "stage": stage}, seconds.get(stage, 0.0)) for stage in STAGES),
        ("smserve_request_duration_seconds_sum", own, sum(seconds.values()) + 1.0),
        ("smserve_request_duration_seconds_count", own, float(requests)),
        ("smserve_batch_size_images_sum", own, float(requests)),
        ("smserve_batch_size_images_count", own, requests / batch),
    ]


def after(*groups: list[Sample]) -> Scrape:
    return Scrape(tuple(sample for group in groups for sample in group))


EMPTY = Scrape(())


def test_the_stages_are_those_of_the_service() -> None:
    assert STAGES == telemetry.STAGES


def test_the_longest_stage_is_named_with_its_share() -> None:
    found = explain(
        EMPTY,
        after(
            stages("detect", 100, 1, infer=71, queue=20, decode=9),
            stages("classify", 5, 1, decode=8),
        ),
        100,
    )
    assert found.sentence == (
        "limited by infer of detect: 71 % of the time of a request; queue 20 %; the device was "
        "busy 71 % of the time, 100 % of it with detect"
    )


def test_a_queue_is_blamed_on_the_task_that_keeps_the_device_busy() -> None:
    """Classification waits longest, and detection is why."""
    found = explain(
        EMPTY,
        after(
            stages("classify", 900, 4, queue=500, infer=80),
            stages("detect", 50, 1, queue=30, infer=60),
        ),
        100,
    )
    assert found.limit is not None
    assert (found.limit[0].task, found.limit[1]) == ("detect", "infer")
    # 225 batches of classification took a quarter of what their images say, together
    assert found.device_busy == pytest.approx(0.8)
    assert "75 % of it with detect" in found.sentence


def test_only_what_happened_in_between_counts() -> None:
    before = after(stages("segment", 100, 1, encode=500, infer=1))
    later = after(stages("segment", 110, 1, encode=501, infer=8))
    found = explain(before, later, 10)
    assert found.tasks[0].requests == 10
    assert found.sentence.startswith("limited by infer of segment: 88 %")


def test_a_service_that_computed_nothing_has_no_limit() -> None:
    idle = after(stages("classify", 10, 1, infer=5))
    assert explain(idle, idle, 10).sentence.startswith("no limiting stage")


def test_several_engines_and_what_was_refused() -> None:
    extra: list[Sample] = [
        ("smserve_processes", {"process": "engine"}, 4.0),
        ("smserve_rejected_total", {"reason": "queue_full"}, 7.0),
        ("smserve_rejected_total", {"reason": "draining"}, 0.0),
        ("process_cpu_seconds_total", {"process": "front-0"}, 5.0),
        ("process_cpu_seconds_total", {"process": "engine-0"}, 20.0),
    ]
    found = explain(EMPTY, after(stages("detect", 100, 1, infer=40), extra), 10)
    assert found.device_busy == pytest.approx(1.0)
    assert explain(EMPTY, after(stages("detect", 100, 1, infer=20), extra), 10).device_busy == 0.5
    assert found.counts == {"rejected queue_full": 7}
    assert found.cpu_cores == {"engine-0": 2.0, "front-0": 0.5}


def test_the_generator_names_slow_decoding_of_a_real_service() -> None:
    with service_process() as service:
        arguments = f"--url {service.url} --duration-s 1 --warm-up-s 0 --connections 1"
        pictures = "--pictures 4000x3000 --picture-bytes 4000000 --different 1 --explain"
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "loadtests.generator", *f"{arguments} {pictures}".split()],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        found = explain(EMPTY, scrape(service.url), 1.5)
    assert done.returncode == 0, done.stderr
    assert "limited by decode of classify" in done.stdout
    assert found.limit is not None
    assert found.limit[1] == "decode"
    assert found.tasks[0].seconds["decode"] > 10 * found.tasks[0].seconds["infer"]
