"""A cluster as operators start it: `ray start`, `serve deploy`, the configuration of deploy/ray.

python -m loadtests.gates.on_ray_deploy --out loadtests/results/gate-ray-deploy.json

Replicas come when the load rises and go when it falls, without a failed request; a configuration
that cannot be built changes nothing; the demo models answer as they do in the plain service.
"""

import copy
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from loadtests.gates.answers import FLOAT32, ask, differences
from loadtests.gates.gate import GateOptions, GateReport, classify_payloads, run_main
from loadtests.generator.payloads import raw_payloads, sample_pictures
from loadtests.generator.plan import LoadPlan, Retry
from loadtests.generator.run import LoadRun
from loadtests.own_server import ROOT, free_port, smserve_process
from loadtests.ray_cluster import TOKEN, StartedCluster, wait_for

_FOLDER: Final = ROOT / "deploy/ray"
_RETRY: Final = Retry(attempts=10, backoff_s=0.05, cap_s=5.0)
_DEPLOYED_S: Final = 120.0
_SCALED_S: Final = 90.0
_STUB_ARGUMENTS: Final = {
    "num_gpus": 0,
    "num_cpus": 0.4,
    "min_replicas": 1,
    "max_replicas": 2,
    "target_ongoing_requests": 4,
    "upscale_delay_s": 1,
    "downscale_delay_s": 2,
    "settings": {
        "backend": "stub",
        "stub": {"batch_ms": 100, "image_ms": 2},
        "shutdown": {"grace_s": 0.5},
        "log": {"level": "warning"},
    },
}
_DEMO_ARGUMENTS: Final = {
    "num_gpus": 0,
    "num_cpus": 0.4,
    "settings": {"device": "cpu", "log": {"level": "warning"}},
}


class Operator:
    """Deploys configurations, and asks Ray what became of them."""

    def __init__(self, cluster: StartedCluster, folder: Path) -> None:
        self._cluster, self._folder = cluster, folder

    def deploy(self, arguments: Mapping[str, Any]) -> None:
        """The configuration of deploy/ray with other arguments and on a port of its own."""
        config = copy.deepcopy(yaml.safe_load((_FOLDER / "serve_config.yaml").read_text()))
        config["http_options"] |= {"host": "127.0.0.1", "port": self._cluster.port}
        config["applications"][0]["args"] = dict(arguments)
        file = self._folder / "serve_config.yaml"
        file.write_text(yaml.safe_dump(config))
        self._cluster.run("serve", "deploy", "--address", self._cluster.dashboard, str(file))

    def status(self) -> tuple[str, str]:
        """Of the application, and Ray's message."""
        answer = httpx.get(
            f"{self._cluster.dashboard}/api/serve/applications/",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=30,
        )
        found = answer.raise_for_status().json()["applications"].get("smserve", {})
        return found.get("status", ""), found.get("message", "")

    def wait_for(self, status: str) -> None:
        """Until the application has it.

        Raises:
            TimeoutError: it does not get it.
        """
        if wait_for(lambda: self.status()[0] == status, _DEPLOYED_S, 0.3) is None:
            raise TimeoutError(f"wanted {status}, found {self.status()}\n{self._cluster.log()}")


def run(options: GateOptions) -> GateReport:
    """The gate; about 3 minutes."""
    report = GateReport("ray-deploy", options)
    with _started() as (cluster, operator):
        operator.deploy(_STUB_ARGUMENTS)
        operator.wait_for("RUNNING")
        _scaled(report, cluster)
        _not_built(report, cluster, operator)
        started = time.monotonic()
        operator.deploy(_DEMO_ARGUMENTS)
        wait_for(lambda: operator.status()[0] == "DEPLOYING", 10)
        operator.wait_for("RUNNING")
        report.note("update to the demo models: took", time.monotonic() - started, "s")
        _demo_answers(report, cluster)
    return report


@contextmanager
def _started() -> Iterator[tuple[StartedCluster, Operator]]:
    lines = [one for one in (_FOLDER / "ray.env").read_text().splitlines() if one[:1] not in "#"]
    variables = dict(one.split("=", 1) for one in lines)
    # the test need not wait as long as an operator would
    variables |= {
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    }
    with tempfile.TemporaryDirectory(prefix="smserve-config-") as folder:
        cluster = StartedCluster(port=free_port(), variables=variables)
        try:
            cluster.start()
            if wait_for(cluster.is_up, _DEPLOYED_S) is None:
                raise TimeoutError(f"no cluster\n{cluster.log()}")
            yield cluster, Operator(cluster, Path(folder))
        except BaseException:
            print(cluster.log()[-4000:], file=sys.stderr)
            raise
        finally:
            cluster.close()


def _scaled(report: GateReport, cluster: StartedCluster) -> None:
    report.equal("replicas at rest", len(cluster.replica_pids()), 1, "replicas")
    plan = LoadPlan(urls=(cluster.url,), duration_s=30, connections=32, retry=_RETRY)
    _load(report, "load rises", plan, lambda: _wait(report, "second replica", cluster, 2))
    plan = LoadPlan(urls=(cluster.url,), duration_s=60, rate=5, retry=_RETRY)
    _load(report, "load falls", plan, lambda: _wait(report, "one replica again", cluster, 1))


def _wait(report: GateReport, name: str, cluster: StartedCluster, number: int) -> None:
    seconds = wait_for(lambda: len(cluster.replica_pids()) == number, _SCALED_S)
    if seconds is None:
        report.fail(f"{name}: {len(cluster.replica_pids())} after {_SCALED_S:.0f} s")
    else:
        report.note(f"{name}: after", seconds, "s")


def _load(report: GateReport, name: str, plan: LoadPlan, meanwhile: Callable[[], None]) -> None:
    with LoadRun(plan, classify_payloads()) as load:
        meanwhile()
        result = load.wait()
    failed = result.offered - result.statuses.get(200, 0)
    report.note(f"{name}: requests", result.offered, "requests")
    report.equal(f"{name}: requests failed", failed, 0, "requests")
    if failed:
        report.fail(f"{name}: {result.statuses}, {dict(result.errors)}")
    for kind, number in result.retries.items():
        report.note(f"{name}: repeated after {kind}", number, "attempts")


def _not_built(report: GateReport, cluster: StartedCluster, operator: Operator) -> None:
    before = cluster.replica_pids()
    operator.deploy({**_STUB_ARGUMENTS, "settings": {"no_such_setting": 1}})
    operator.wait_for("DEPLOY_FAILED")
    if "no_such_setting" not in operator.status()[1]:
        report.fail(f"unknown setting: the reason is missing in {operator.status()[1]!r}")
    plan = LoadPlan(urls=(cluster.url,), duration_s=5, rate=20, retry=_RETRY)
    _load(report, "unknown setting", plan, lambda: None)
    left = len(before & cluster.replica_pids())
    report.equal("unknown setting: old replicas lost", len(before) - left, 0, "replicas")


def _demo_answers(report: GateReport, cluster: StartedCluster) -> None:
    payloads = [
        payload
        for target in ("/classify?top_k=3", "/detect", "/segment")
        for payload in raw_payloads(target, sample_pictures()[:2])
    ]
    different = 0
    with smserve_process(frontends="0", device="cpu") as plain:
        for payload in payloads:
            ours, theirs = ask(plain.url, payload), ask(cluster.url, payload)
            # another number of threads adds up in another order
            if found := differences(ours, theirs, FLOAT32):
                different += 1
                report.fail(f"{payload.target}: {found[:3]}")
    report.note("demo models: answers compared with the plain service's", len(payloads), "answers")
    report.equal("demo models: answers that differ", different, 0, "answers")


if __name__ == "__main__":
    run_main(run, __doc__)
