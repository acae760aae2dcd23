"""What is decided before Ray starts anything; `tests/loadtests/test_on_ray.py` runs a cluster."""

import asyncio
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from service.cli.console import UsageError
from service.cli.ray_serve import _replica_range
from service.ray_serve.application import build
from service.ray_serve.arguments import (
    Placement,
    parse_arguments,
    placement_from,
    replica_settings,
)
from service.ray_serve.metrics_hub import HubActor
from service.ray_serve.options import deployment_options, http_options, ray_environment
from service.ray_serve.replica import ReplicaApp
from service.settings import Settings, SettingsError, given_settings
from service.telemetry import Metrics

FOLDER = Path(__file__).resolve().parents[2] / "deploy/ray"


def test_settings_come_from_the_arguments_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMSERVE_BATCH__MAX_IMAGES", "3")
    monkeypatch.setenv("SMSERVE_NO_SUCH_SETTING", "1")
    _, settings = parse_arguments({"settings": {"backend": "stub", "batch": {"max_delay_ms": 2}}})
    assert (settings.batch.max_images, settings.batch.max_delay_ms) == (None, 2)


def test_settings_travel_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = given_settings({"api_keys": ["a-long-secret"], "queue": {"max_images": 7}})
    travelled = pickle.dumps(settings)
    monkeypatch.setenv("SMSERVE_QUEUE__MAX_IMAGES", "9")
    arrived = pickle.loads(travelled)  # noqa: S301 - made three lines above
    assert arrived == settings
    assert arrived.api_keys[0].get_secret_value() == "a-long-secret"


def test_settings_may_name_a_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("api_keys: [a-long-secret]\n")
    assert len(given_settings({"config": str(file)}).api_keys) == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"settings": {"batch": {"max_image": 4}}}, "unknown setting batch.max_image"),
        ({"settings": ["backend"]}, "settings: must be a mapping"),
        ({"max_replica": 4}, "max_replica: Extra inputs"),
        ({"min_replicas": 3, "max_replicas": 2}, "max_replicas is 2, at least min_replicas = 3"),
        ({"min_replicas": 0}, "min_replicas: Input should be greater than 0"),
        ({"max_surge_percent": 101}, "max_surge_percent: "),
        ({"settings": {"frontends": 2}}, "frontends: a replica is one process"),
        ({"settings": {"admin": {"port": 8001}}}, "admin.port: "),
        ({"num_gpus": 1, "settings": {"device": "cpu"}}, "num_gpus asks for a GPU"),
        ({"settings": {"device": "cuda"}}, "num_gpus is 0"),
    ],
)
def test_bad_arguments_fail_before_anything_is_replaced(
    arguments: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(SettingsError, match=complaint):
        build(arguments)


def test_a_replica_is_one_process_on_the_device_it_was_given() -> None:
    settings = given_settings({})
    cpu = replica_settings(settings, Placement(num_cpus=2.5))
    assert (cpu.frontends, cpu.device, cpu.pool_size) == (0, "cpu", 3)
    gpu = replica_settings(settings, Placement(num_gpus=1))
    assert (gpu.frontends, gpu.device) == (0, "cuda")


def options_of(settings: dict[str, Any] | None = None, **placement: Any) -> dict[str, Any]:
    return deployment_options(given_settings(settings or {}), placement_from(placement))


def test_the_service_refuses_before_ray_does() -> None:
    options = options_of({"queue": {"max_images": 50}})
    assert options["max_ongoing_requests"] > 50
    assert options["max_queued_requests"] >= options["max_ongoing_requests"]
    pressure = BackpressureConfig(**options["backpressure_config"])
    assert (pressure.status_code, pressure.retry_after_s) == (429, 1)


@pytest.mark.parametrize(("num_gpus", "batch"), [(0, 16), (1, 128)])
def test_replicas_follow_the_images_of_a_batch(num_gpus: int, batch: int) -> None:
    options = options_of(num_gpus=num_gpus, min_replicas=1, max_replicas=4)
    scaling = AutoscalingConfig(**options["autoscaling_config"])
    assert scaling.target_ongoing_requests == batch
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 4)
    assert "num_replicas" not in options


def test_a_fixed_number_is_not_scaled() -> None:
    options = options_of(min_replicas=3, max_replicas=3)
    assert options["num_replicas"] == 3
    assert "autoscaling_config" not in options


def test_ray_waits_as_long_as_the_service_drains() -> None:
    options = options_of({"shutdown": {"grace_s": 7, "drain_timeout_s": 40}})
    assert options["graceful_shutdown_timeout_s"] > 47
    environment = ray_environment(given_settings({"shutdown": {"grace_s": 7}}))
    assert environment["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] == "7"


def test_the_service_times_out_before_ray_does() -> None:
    settings = Settings()
    longest_s = (settings.timeouts.body_ms + settings.timeouts.max_request_ms) / 1000
    assert http_options(settings)["request_timeout_s"] > longest_s


def test_the_file_for_operators_says_the_same() -> None:
    lines = (FOLDER / "ray.env").read_text().splitlines()
    variables = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert variables == ray_environment(given_settings({}))


def test_the_configuration_for_operators_can_be_built() -> None:
    config = yaml.safe_load((FOLDER / "serve_config.yaml").read_text())
    (application,) = config["applications"]
    module, _, function = application["import_path"].partition(":")
    assert (module, function) == (build.__module__, build.__name__)
    placement, settings = parse_arguments(application["args"])
    assert replica_settings(settings, placement).device == "cuda"
    ours = http_options(settings)
    assert {name: config["http_options"][name] for name in ours.keys() - {"host"}} == {
        name: ours[name] for name in ours.keys() - {"host"}
    }


def sample(text: bytes, name: str) -> float:
    (line,) = [one for one in text.decode().splitlines() if one.startswith(f"{name} ")]
    return float(line.split()[-1])


def test_any_replica_tells_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("service.ray_serve.metrics_hub.time.monotonic", lambda: now)
    hub, first, second = HubActor(), Metrics(), Metrics()
    name = 'smserve_dropped_total{reason="expired"}'
    first.dropped.labels("expired").inc(2)
    second.dropped.labels("expired").inc(3)
    hub.update("a", first.registry.snapshot())
    text, media_type = hub.exposition("b", second.registry.snapshot())
    assert sample(text, name) == 5
    assert media_type.startswith("text/plain")
    now += 31
    first.draining.set(1)
    text, _ = hub.exposition("b", second.registry.snapshot())
    assert sample(text, name) == 5, "what a replica has counted stays when it is gone"
    assert 'process="a"' not in text.decode()
    hub.gone("b", second.registry.snapshot())
    text, _ = hub.exposition("c", Metrics().registry.snapshot())
    assert sample(text, name) == 5


class _App:
    """Answers every request with its own idea of the request's id."""

    routes: tuple[()] = ()
    router = None

    def __init__(self, request_id: bytes) -> None:
        self._request_id = request_id

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/plain"), (b"x-request-id", self._request_id)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x"})


@pytest.mark.parametrize(
    ("given", "ours", "left"),
    [(b"same", b"same", []), (b"not allowed!", b"made-by-us", [b"made-by-us"])],
)
def test_an_id_that_ray_adds_is_not_sent_twice(given: bytes, ours: bytes, left: Any) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def nothing() -> None:
        return None

    app: Any = ReplicaApp(_App(ours), nothing)  # type: ignore[arg-type]
    scope = {"type": "http", "headers": [(b"x-request-id", given)]}
    asyncio.run(app(scope, nothing, send))
    assert [value for name, value in sent[0]["headers"] if name == b"x-request-id"] == left
    assert sent[1] == {"type": "http.response.body", "body": b"x"}


def test_the_end_closes_the_service() -> None:
    closed, sent = [], []
    messages = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Any:
        return {"type": next(messages)}

    async def send(message: Any) -> None:
        sent.append((message["type"], len(closed)))

    async def close() -> None:
        closed.append(True)

    app: Any = ReplicaApp(_App(b""), close)  # type: ignore[arg-type]
    asyncio.run(app({"type": "lifespan"}, receive, send))
    assert sent == [("lifespan.startup.complete", 0), ("lifespan.shutdown.complete", 1)]


@pytest.mark.parametrize("text", ["two", "1:", "1:x", ""])
def test_a_range_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="--replicas is"):
        _replica_range(text)


def test_ranges() -> None:
    assert _replica_range("4") == (4, 4)
    assert _replica_range("1:8") == (1, 8)
    assert _replica_range(None) == (None, None)
