"""How Ray has to treat a replica, as follows from the settings."""

from typing import Any, Final

from service.capacity import capacity_for
from service.ray_serve.arguments import Placement
from service.settings import Settings

APPLICATION: Final = "smserve"
# beside the requests that hold pictures: those whose bodies still come in, probes, scrapes
_OTHER_REQUESTS: Final = 64
_HEALTH_PERIOD_S: Final = 5.0
# between the end of the drain and the moment at which Ray kills the process
_END_S: Final = 10.0
_UPDATED_AT_ONCE: Final = 0.2
_STARTS: Final = 3


def deployment_options(settings: Settings, placement: Placement) -> dict[str, Any]:
    """Options of `serve.deployment`, apart from the class.

    Our own admission must be the one that refuses: it knows how long the queue takes, answers in
    our form and lets probes through. Ray therefore lets more requests in than it accepts. Ray's own
    limit, with the same status, is behind it; it must hold a burst, since Ray counts as queued what
    arrives in one turn of the event loop, even when there is room.

    Args:
        settings: of the replicas.
    """
    capacity = capacity_for(settings, placement.device)
    max_requests = 2 * capacity.queue_images + _OTHER_REQUESTS
    shutdown = settings.shutdown
    return {
        "name": APPLICATION,
        "ray_actor_options": {"num_cpus": placement.num_cpus, "num_gpus": placement.num_gpus},
        "max_ongoing_requests": max_requests,
        "max_queued_requests": max_requests,
        "backpressure_config": {"status_code": 429, "retry_after_s": 1},
        "health_check_period_s": _HEALTH_PERIOD_S,
        "health_check_timeout_s": 2 * _HEALTH_PERIOD_S,
        "graceful_shutdown_wait_loop_s": min(1.0, max(0.1, shutdown.grace_s)),
        "graceful_shutdown_timeout_s": shutdown.grace_s + shutdown.drain_timeout_s + _END_S,
        "max_constructor_retry_count": _STARTS,
        "rolling_update_percentage": _UPDATED_AT_ONCE,
        "max_surge_percent": placement.max_surge_percent,
        **_scaling(placement, capacity.batch_images),
    }


def _scaling(placement: Placement, batch_images: int) -> dict[str, Any]:
    """Ray's measure, accepted requests without an answer, is our queue with the batch in work."""
    if placement.min_replicas == placement.max_replicas:
        return {"num_replicas": placement.min_replicas}
    return {
        "autoscaling_config": {
            "min_replicas": placement.min_replicas,
            "max_replicas": placement.max_replicas,
            "target_ongoing_requests": placement.target_ongoing_requests or float(batch_images),
            "upscale_delay_s": placement.upscale_delay_s,
            "downscale_delay_s": placement.downscale_delay_s,
        }
    }


def http_options(settings: Settings) -> dict[str, Any]:
    """Of the proxies. Our own time limits are the ones that answer; Ray's is behind them."""
    timeouts = settings.timeouts
    return {
        "host": settings.host,
        "port": settings.port,
        "keep_alive_timeout_s": timeouts.keep_alive_s,
        "request_timeout_s": (timeouts.body_ms + timeouts.max_request_ms) / 1000 + _END_S,
    }


def ray_environment(settings: Settings, *, has_haproxy: bool = True) -> dict[str, str]:
    """Variables that every process of the cluster needs, since Ray has no other way to set these.

    Args:
        has_haproxy: pictures go from HAProxy straight to a replica; else through Ray's own proxy,
            which is slower and answers 500 for requests whose replica dies.
    """
    # whoever may speak to a cluster may run any code on it: never without the token
    variables = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
    if not has_haproxy:
        return variables
    shutdown, timeouts = settings.shutdown, settings.timeouts
    return variables | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # a replica that is to go is reachable for so long, while the proxies notice
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{shutdown.grace_s:g}",
        # answers depend on nothing but the request: what a dead replica had may go to another one,
        # as far as the proxy still holds the request
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "2",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(256 * 1024),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(max(timeouts.body_ms, timeouts.send_ms) // 1000),
    }
