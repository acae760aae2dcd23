"""Locust itself, with our users, against the service with the stub backend."""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import ROOT
from tests.service.processes import free_port, service_process

LOCUST = (sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--only-summary")
# seconds of one batch, which is one image
SLOW_S = 0.2
SMALL = "--max-megapixels 1"


@pytest.fixture(scope="module")
def slow_url() -> Iterator[str]:
    """Computes five pictures a second, and lets four wait."""
    settings = {"stub__batch_ms": str(1000 * SLOW_S), "batch__max_images": "1"}
    with service_process(**settings, queue__max_images="4") as service:
        yield service.url


def locust(line: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(  # noqa: S603
        [*LOCUST, *line.split()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(line: str, reports: Path) -> tuple[int, str, dict[str, Any]]:
    """Exit status, console, report."""
    files = f"--html {reports}/run.html --csv {reports}/run"
    process = locust(f"--headless {files} {SMALL} {line}")
    console, _ = process.communicate(timeout=60)
    return process.returncode, console, json.loads((reports / "run.json").read_text())


def test_users_respect_a_refusal_and_a_broken_limit_is_named(slow_url: str, tmp_path: Path) -> None:
    """Twelve users, of whom about six are refused, in a closed loop."""
    status, console, report = run(
        f"--host {slow_url} -u 12 -r 12 -t 1s --think-s 0 --mistakes 0 --max-error-ratio 0 "
        "--max-p99-ms classify=10,detect=60000 --mix classify=1",
        tmp_path,
    )
    assert status == 1
    (line,) = (line for line in console.splitlines() if line.startswith("FAILED"))
    assert line.startswith("FAILED: p99 of classify is")
    figures = report["tasks"]["classify"]
    assert (figures["failed"], report["failed"]) == (0, [line.removeprefix("FAILED: ")])
    assert figures["ok"] == pytest.approx(1 / SLOW_S + 4, abs=4)
    # the service asks for at least a second; without it each would come back at once
    assert 3 <= figures["refused"] < 12 * 3
    page = (tmp_path / "run.html").read_text()
    assert "limited by infer of classify" in page
    assert (tmp_path / "run_stats.csv").read_text().count("/classify refused") == 1


def test_a_slow_service_does_not_slow_down_arrivals(slow_url: str, tmp_path: Path) -> None:
    rate, seconds = 30.0, 1
    status, console, report = run(
        f"--host {slow_url} --rate {rate} --arrivals constant -t {seconds}s --mix detect=1 "
        "--mistakes 0 --max-error-ratio 0 --max-refused-ratio 0.1",
        tmp_path,
    )
    assert status == 1
    assert "FAILED: share of refused requests is" in console
    # on a busy machine the generator itself is late; the service would take a fraction of this
    assert report["offered_rate"] == pytest.approx(rate, rel=0.35)
    assert report["requests"] == pytest.approx(rate * seconds, rel=0.35)
    # a closed loop would have sent no more than this
    assert report["requests"] > 2 * seconds / SLOW_S
    assert report["tasks"]["detect"]["failed"] == 0
    explanation = report["explanation"]
    assert (explanation["task"], explanation["stage"]) == ("detect", "infer")
    assert explanation["tasks"]["detect"]["share"]["queue"] > 0.5
    assert explanation["device_busy"] > 0.5


def test_a_master_judges_what_its_workers_do(tmp_path: Path) -> None:
    port, rate = free_port(), 40.0
    with service_process() as service:
        report = tmp_path / "report.json"
        master = locust(
            f"--headless --master --master-bind-port {port} --expect-workers 2 "
            f"--host {service.url} --rate {rate} --arrivals constant -t 2s --mix segment=1 "
            f"--mistakes 0.2 {SMALL} --report {report} "
            "--max-error-ratio 0 --max-p99-ms 20000 --min-rate 5 --max-refused-ratio 0"
        )
        # of the load they hear from the master; these pictures they would have to choose once more
        workers = [locust(f"--worker --master-port {port} {SMALL}") for _ in range(2)]
        console, _ = master.communicate(timeout=60)
        outputs = [worker.communicate(timeout=30)[0] for worker in workers]
    assert master.returncode == 0, console
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    found = json.loads(report.read_text())
    assert list(found["tasks"]) == ["segment"]
    # each worker sends its half
    assert found["offered_rate"] == pytest.approx(rate, rel=0.35)
    assert found["tasks"]["segment"]["mistakes"] > 2
    assert found["explanation"]["tasks"]["segment"]["requests"] == found["requests"]


def test_the_locustfile_needs_little_and_starts_soon() -> None:
    heavy = ("torch", "fastapi", "httpx", "prometheus_client", "pydantic", "service", "model")
    program = (
        f"import sys; import loadtests.locustfile; print(sorted(set({heavy}) & set(sys.modules)))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # of the processor, which other programs may use meanwhile
    assert after.ru_utime - before.ru_utime < 10
