"""A real Prometheus answers what is asked of a GPU, here of a driver that is made up."""

import math
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client import start_http_server

from deploy.check_stack import ALERTS, Prometheus, StackQuery, alert_queries, dashboard_queries
from service.telemetry import Metrics
from tests.service.test_gpu_metrics import FakeNvml

PROGRAM = shutil.which("prometheus")
QUERIES = [query for query in (*dashboard_queries(), *alert_queries()) if query.needs_gpu]
# the two that recorded rules answer need a scrape and then an evaluation
SOON_S = 30.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """With the project's rules and one target: the metrics of a service that found a GPU."""
    folder = tmp_path_factory.mktemp("prometheus")
    with pytest.MonkeyPatch.context() as monkeypatch:
        FakeNvml(monkeypatch)
        metrics = Metrics()
        metrics.watch_gpu("cuda:0")
        target, thread = start_http_server(0, "127.0.0.1", metrics.registry)
        address = f"127.0.0.1:{free_port()}"
        assert PROGRAM is not None
        program = subprocess.Popen(  # noqa: S603 - our own arguments
            [
                PROGRAM,
                f"--config.file={configuration(folder, target.server_port)}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        yield Prometheus(f"http://{address}")
        program.terminate()
        program.wait(SOON_S)
        target.shutdown()
        thread.join()
        target.server_close()


def configuration(folder: Path, port: int) -> Path:
    path = folder / "prometheus.yml"
    settings = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {"job_name": "smserve", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
        ],
    }
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def numbers(stack: Prometheus, expr: str) -> list[float]:
    """The series of an expression, none while Prometheus starts."""
    try:
        return [value for value in stack.series(expr) if math.isfinite(value)]
    except OSError:
        return []


@pytest.mark.skipif(PROGRAM is None, reason="Prometheus itself (apt-get install prometheus)")
@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.source}: {query.title}")
def test_a_gpu_gives_the_query_one_series(query: StackQuery, stack: Prometheus) -> None:
    expr = query.substituted
    until = time.monotonic() + SOON_S
    while not (found := numbers(stack, expr)) and time.monotonic() < until:
        time.sleep(0.1)
    assert len(found) == 1, expr


def test_every_figure_of_a_gpu_is_asked_for() -> None:
    assert len(QUERIES) >= 8
