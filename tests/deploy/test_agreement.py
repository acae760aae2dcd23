"""What the manifests assume is what the code does."""

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import Match

from model.config import TaskName
from service.app import create_app
from service.capacity import capacity_for
from service.processes.supervisor import longest_shutdown_s
from service.settings import Settings, SettingsError, load_settings
from service.telemetry import Metrics
from tests.deploy.manifests import (
    RENDERED,
    container_of,
    environment_of,
    of_kind,
    pod_of,
    rendered,
)

MIB, GIB = 2**20, 2**30
# measured: a front end of the soak on the H100 held under 100 MiB, an engine 1,885 MiB
FRONT_BYTES, ENGINE_BYTES = 100 * MIB, 2 * GIB
# seconds that a start may take at least: see docs/scaling.md
START_S = 600
# of paths of the Ingress that nothing, or no GET, answers itself: what to ask instead
BELOW = {
    "/classify": ("POST", "/classify"),
    "/detect": ("POST", "/detect"),
    "/segment": ("POST", "/segment"),
    "/hf": ("POST", "/hf/classify"),
    "/v2": ("GET", "/v2/health/live"),
    "/static": ("GET", "/static/page.css"),
    "/samples": ("GET", "/samples/cat.jpg"),
}


@pytest.fixture(params=RENDERED)
def folder(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def settings(folder: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return settings_of(folder, monkeypatch)


def settings_of(folder: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """As the container would read them: a variable that does not exist is an error."""
    for name, value in environment_of(folder).items():
        monkeypatch.setenv(name, value)
    return load_settings()


def quantity(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1, "m": 1e-3, "Mi": MIB, "Gi": GIB}[unit]


def patience_s(probe: dict[str, Any]) -> int:
    seconds: int = probe["periodSeconds"] * probe["failureThreshold"]
    return seconds


def test_the_variables_are_settings(folder: str, settings: Settings) -> None:
    container = container_of(folder)
    assert settings.host == "0.0.0.0", "the loopback address of a pod cannot be reached"  # noqa: S104
    assert settings.port == container["ports"][0]["containerPort"]
    mounts = {one["mountPath"] for one in container["volumeMounts"]}
    assert {"/tmp", "/cache"} <= mounts  # noqa: S108 - of the container
    # KServe mounts the models itself
    expected = "/mnt/models" if folder == "kserve" else "/models"
    assert str(settings.models_dir) == expected
    assert folder == "kserve" or expected in mounts


def test_what_kubernetes_injects_would_break_the_settings(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pod_of(folder)["spec"]["enableServiceLinks"] is False
    settings_of(folder, monkeypatch)
    monkeypatch.setenv("SMSERVE_PORT", "tcp://10.0.0.1:80")
    with pytest.raises(SettingsError, match="port"):
        load_settings()
    monkeypatch.setenv("SMSERVE_PORT", "8000")
    monkeypatch.setenv("SMSERVE_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(SettingsError, match="SMSERVE_SERVICE_HOST"):
        load_settings()


def test_probes_ask_what_the_service_answers(folder: str, settings: Settings) -> None:
    app = create_app(Settings(backend="stub"))
    container = container_of(folder)
    ports = {container["ports"][0]["name"], container["ports"][0]["containerPort"]}
    for kind in ("startup", "readiness", "liveness"):
        get = container[f"{kind}Probe"]["httpGet"]
        assert get["path"] == {"startup": "/startupz", "readiness": "/readyz"}.get(kind, "/livez")
        assert get["port"] in ports
        assert is_served(app, get["path"], "GET")


def is_served(app: Any, path: str, method: str) -> bool:
    scope = {"type": "http", "path": path, "method": method, "root_path": "", "headers": []}
    return any(route.matches(scope)[0] is Match.FULL for route in app.routes)


def test_a_slow_start_is_not_killed(folder: str) -> None:
    patience = patience_s(container_of(folder)["startupProbe"])
    assert patience >= START_S
    if folder != "kserve":
        deployment = of_kind(rendered(folder), "Deployment")["spec"]
        assert deployment["progressDeadlineSeconds"] > patience


def test_the_supervisor_acts_before_the_kubelet(folder: str, settings: Settings) -> None:
    assert patience_s(container_of(folder)["livenessProbe"]) > settings.timeouts.heartbeat_s


def test_a_prober_notices_before_new_work_is_refused(folder: str, settings: Settings) -> None:
    assert patience_s(container_of(folder)["readinessProbe"]) < settings.shutdown.grace_s


def test_nobody_is_killed_while_draining(folder: str, settings: Settings) -> None:
    granted = pod_of(folder)["spec"]["terminationGracePeriodSeconds"]
    assert granted >= longest_shutdown_s(settings.shutdown)
    shutdown = settings.shutdown
    assert granted >= shutdown.grace_s + shutdown.drain_timeout_s + 10


def test_processes_follow_the_requested_cores(folder: str, settings: Settings) -> None:
    resources = container_of(folder)["resources"]
    cores = int(resources["requests"]["cpu"])
    if folder == "overlays/cpu":
        assert "nvidia.com/gpu" not in resources["limits"]
        assert (settings.frontends, settings.device) == (0, "cpu")
        assert settings.torch_threads == settings.pool_size == cores
        assert resources["limits"]["cpu"] == resources["requests"]["cpu"]
    else:
        assert resources["limits"]["nvidia.com/gpu"] == "1"
        assert settings.frontends == cores * 3 // 4


def test_memory_holds_what_the_limits_allow(folder: str, settings: Settings) -> None:
    fronts = settings.frontends
    assert isinstance(fronts, int)
    queue = settings.queue
    # every front end with its pictures, its bodies and what it decodes
    front = settings.processes.picture_bytes * bool(fronts)
    front += FRONT_BYTES + queue.max_bytes + 3 * queue.max_decode_pixels
    needed = max(1, fronts) * front + ENGINE_BYTES
    assert quantity(container_of(folder)["resources"]["limits"]["memory"]) >= needed


def test_the_pod_is_restricted(folder: str) -> None:
    """As the pod security standard of that name asks, and no writable root file system."""
    pod, container = pod_of(folder)["spec"], container_of(folder)
    own = pod.get("securityContext", {}) | container["securityContext"]
    assert own["runAsNonRoot"] is True
    assert own["runAsUser"] == own["runAsGroup"] == own["fsGroup"] == 10001
    assert own["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own["allowPrivilegeEscalation"] is False
    assert own["readOnlyRootFilesystem"] is True
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert all("hostPath" not in volume for volume in pod["volumes"])


@pytest.mark.parametrize("folder", ["overlays/gpu", "overlays/cpu"])
def test_everything_selects_the_pods(folder: str) -> None:
    objects = rendered(folder)
    labels = pod_of(folder)["metadata"]["labels"].items()
    deployment = of_kind(objects, "Deployment")["spec"]
    selectors = [
        deployment["selector"]["matchLabels"],
        of_kind(objects, "Service")["spec"]["selector"],
        of_kind(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    if folder == "overlays/gpu":
        selectors.append(of_kind(objects, "PodMonitor")["spec"]["selector"]["matchLabels"])
    for selector in selectors:
        assert selector
        assert selector.items() <= labels
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert "replicas" not in deployment
    port = container_of(folder)["ports"][0]["name"]
    assert of_kind(objects, "Service")["spec"]["ports"][0]["targetPort"] == port
    assert of_kind(objects, "NetworkPolicy")["spec"]["ingress"][0]["ports"][0]["port"] == port


def sample_names() -> set[str]:
    metrics = Metrics()
    metrics.add_model(
        TaskName.CLASSIFY, "m", backend="b", device="cuda:0", dtype="float16", sha256=""
    )
    zero = lambda task: 0.0  # noqa: E731
    metrics.watch_queue(depth=zero, pixels=zero, oldest_age_s=zero)
    text = metrics.exposition()[0].decode()
    return {s.name for family in text_string_to_metric_families(text) for s in family.samples}


def test_the_autoscaler_asks_for_metrics_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = rendered("overlays/gpu")
    scaled = of_kind(objects, "ScaledObject")["spec"]
    assert scaled["scaleTargetRef"]["name"] == of_kind(objects, "Deployment")["metadata"]["name"]
    triggers = {one["name"]: one for one in scaled["triggers"]}
    known, monitor = sample_names(), of_kind(objects, "PodMonitor")["spec"]
    job = pod_of("overlays/gpu")["metadata"]["labels"][monitor["jobLabel"]]
    for trigger in triggers.values():
        query = trigger["metadata"]["query"]
        assert set(re.findall(r"smserve_\w+", query)) <= known
        assert re.findall(r'job="(\w+)"', query) == [job]
    settings = settings_of("overlays/gpu", monkeypatch)
    full_batch = capacity_for(settings, "cuda:0").batch_images
    depth = triggers["queue-depth"]
    assert depth["metricType"] == "AverageValue"
    assert float(depth["metadata"]["threshold"]) == full_batch
    assert full_batch < capacity_for(settings, "cuda:0").queue_images
    deadline_s = settings.timeouts.request_ms / 1000
    assert float(triggers["queue-age"]["metadata"]["threshold"]) < deadline_s
    assert scaled["minReplicaCount"] >= 2


def test_prometheus_waits_longer_than_the_supervisor() -> None:
    from service.processes import front

    endpoint = of_kind(rendered("overlays/gpu"), "PodMonitor")["spec"]["podMetricsEndpoints"][0]
    assert float(endpoint["scrapeTimeout"].removesuffix("s")) > front._SCRAPE_S
    assert endpoint["port"] == container_of("overlays/gpu")["ports"][0]["name"]
    assert is_served(create_app(Settings(backend="stub")), endpoint["path"], "GET")


def test_the_ingress_leads_to_routes_and_waits_long_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ingress = of_kind(rendered("overlays/gpu"), "Ingress")
    paths = {one["path"]: one["pathType"] for one in ingress["spec"]["rules"][0]["http"]["paths"]}
    app = create_app(Settings(backend="stub"))
    for path, kind in paths.items():
        method, example = BELOW.get(path, ("GET", path))
        assert (kind == "Prefix") is (example != path)
        assert is_served(app, example, method), path
    assert {"/classify", "/detect", "/segment", "/models"} <= paths.keys()
    assert not {"/metrics", "/livez", "/readyz", "/startupz"} & paths.keys()
    timeout_s = float(ingress["metadata"]["annotations"]["haproxy.org/timeout-server"][:-1])
    settings = settings_of("overlays/gpu", monkeypatch)
    assert timeout_s > settings.timeouts.max_request_ms / 1000


def test_there_is_a_folder_for_each_component() -> None:
    """A component that no overlay uses would be rendered by nobody."""
    from tests.deploy.manifests import K8S

    used = (K8S / "overlays/gpu/kustomization.yaml").read_text(encoding="utf-8")
    folders: list[Path] = sorted((K8S / "components").iterdir())
    assert folders
    assert [one.name for one in folders if f"components/{one.name}\n" not in used] == []
