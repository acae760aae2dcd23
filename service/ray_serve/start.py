"""`smserve ray`: a cluster of one machine with the service on it, or an update of a running one."""

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from service.admin import LOOPBACK
from service.ray_serve.arguments import Placement, placement_from
from service.ray_serve.options import APPLICATION, http_options, ray_environment
from service.server import in_url
from service.settings import Settings

log = logging.getLogger(__name__)

# pictures do not travel through Ray's store; this is about the least it accepts
_OBJECT_STORE_BYTES: Final = 100 * 1024 * 1024
_LINES: Final = 4
_HAPROXY_FILES: Final[Mapping[str, str]] = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """Which cluster.

    Attributes:
        address: of a running one, as `ray start` printed it, or `auto`; None: start one here.
        has_haproxy: in front of the replicas, where one is started; else Ray's own proxy.
    """

    address: str | None = None
    has_haproxy: bool = True


def run(settings: Settings, placement: Mapping[str, Any], cluster: ClusterOptions) -> int:
    """Deploy, and where the cluster is ours, serve until a signal.

    Args:
        placement: fields of `Placement`; without `num_gpus` (None) a replica gets a GPU if the
            cluster has any.

    Returns:
        the process's exit status.

    Raises:
        SettingsError: settings that a replica cannot have.
        RuntimeError: the deployment failed; what was deployed before goes on.
    """
    with _environment(settings, cluster):
        _connect(cluster)
        try:
            _deploy(settings, _placement(settings, placement))
            if cluster.address is None:
                _serve_until_signal(settings)
        finally:
            if cluster.address is None:
                _end()
            _disconnect()
    return 0


@contextmanager
def _environment(settings: Settings, cluster: ClusterOptions) -> Iterator[None]:
    """For Ray, whose processes inherit it; variables that the operator has set stay."""
    variables = ray_environment(settings, has_haproxy=cluster.has_haproxy)
    with tempfile.TemporaryDirectory(prefix="smserve-ray-") as folder:
        if cluster.has_haproxy:
            variables |= {name: os.path.join(folder, file) for name, file in _HAPROXY_FILES.items()}
        for name, value in variables.items():
            os.environ.setdefault(name, value)  # noqa: TID251 - handed on to Ray, not read
        yield


def _connect(cluster: ClusterOptions) -> None:
    # Ray reads its variables when it is imported
    import ray

    if cluster.address is not None:
        ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        return
    ray.init(
        # other machines join a cluster that `ray start` has started
        _node_ip_address=LOOPBACK,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        configure_logging=False,
    )
    log.info("cluster started", extra={"address": ray.get_runtime_context().gcs_address})


def _placement(settings: Settings, wanted: Mapping[str, Any]) -> Placement:
    import ray

    num_gpus = wanted.get("num_gpus")
    if num_gpus is None:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        has_gpu = bool(resources.get("GPU"))
        is_gpu = settings.device == "cuda" or (settings.device == "auto" and has_gpu)
        num_gpus = 1.0 if is_gpu else 0.0
    return placement_from({**wanted, "num_gpus": num_gpus})


def _deploy(settings: Settings, placement: Placement) -> None:
    from ray import serve

    from service.ray_serve.application import application

    # on a cluster that serves already this changes nothing
    serve.start(proxy_location="EveryNode", http_options=http_options(settings))
    app: Any = application(settings, placement)
    try:
        serve.run(app, name=APPLICATION, route_prefix="/")
    except RuntimeError as exc:
        raise RuntimeError(f"{exc} {_why()}") from exc
    log.info("deployed", extra={"replicas": placement.min_replicas})


def _why() -> str:
    """What Ray knows of a deployment that failed: the last lines of its longest message."""
    from ray import serve

    found = serve.status().applications.get(APPLICATION)
    messages = [] if found is None else [one.message for one in found.deployments.values()]
    return "\n".join(max(messages, key=len, default="").strip().splitlines()[-_LINES:])


def _serve_until_signal(settings: Settings) -> None:
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    log.info("listening", extra={"url": f"http://{in_url(settings.host)}:{settings.port}"})
    stopped.wait()
    log.info("closed: finishing accepted work")


def _end() -> None:
    """Replicas finish their requests; then the proxies and the cluster end."""
    from ray import serve

    shutdown: Any = serve.shutdown
    shutdown()


def _disconnect() -> None:
    import ray

    disconnect: Any = ray.shutdown
    disconnect()
