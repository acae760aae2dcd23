"""The life of a pod: the real service with the settings of deploy/k8s, asked as a kubelet asks."""

import signal
import time
from pathlib import Path

import httpx

from service.setting_groups import ShutdownSettings
from tests.deploy.manifests import container_of, environment_of, pod_of
from tests.service.pictures import jpeg
from tests.service.processes import ServiceProcess, service_process

CPU = "overlays/cpu"


def status(service: ServiceProcess, probe: str) -> int | None:
    """What the kubelet hears from a probe of the Deployment; None: nothing, or not in time."""
    declared = container_of(CPU)[f"{probe}Probe"]
    try:
        return httpx.get(
            f"{service.url}{declared['httpGet']['path']}", timeout=declared["timeoutSeconds"]
        ).status_code
    except (httpx.ConnectError, httpx.TimeoutException):
        return None


def settings_of_the_pod(models: Path) -> dict[str, str]:
    variables = {
        name.removeprefix("SMSERVE_").lower(): value
        for name, value in environment_of(CPU).items()
        if name.startswith("SMSERVE_")
    }
    # addresses and folders of the test; and more seconds of grace would show no more
    del variables["port"]
    return variables | {
        "host": "127.0.0.1",
        "admin__port": "0",
        "models_dir": str(models),
        "shutdown__grace_s": "2.5",
    }


def test_from_start_to_sigterm(tmp_path: Path) -> None:
    variables = settings_of_the_pod(tmp_path)
    shutdown = ShutdownSettings(
        grace_s=float(variables["shutdown__grace_s"]),
        drain_timeout_s=float(variables["shutdown__drain_timeout_s"]),
    )
    startup = container_of(CPU)["startupProbe"]
    with service_process(is_awaited=False, **variables) as service:
        end = time.monotonic() + startup["periodSeconds"] * startup["failureThreshold"]
        while (heard := status(service, "startup")) != 200:
            assert heard in (None, 503)
            assert time.monotonic() < end
            time.sleep(0.05)
        assert status(service, "readiness") == status(service, "liveness") == 200

        sent = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        while status(service, "readiness") != 503:
            assert time.monotonic() - sent < shutdown.grace_s
        while time.monotonic() - sent < shutdown.grace_s - 1:
            # out of the rotation, but what is still sent here is answered
            assert status(service, "readiness") == 503
            assert status(service, "liveness") == 200
            answer = httpx.post(f"{service.url}/classify", content=jpeg(), timeout=10)
            assert answer.status_code == 200
            time.sleep(0.5)
        assert service.wait(pod_of(CPU)["spec"]["terminationGracePeriodSeconds"]) == 0
        assert time.monotonic() - sent >= shutdown.grace_s
