"""Is it well, how much does it do, how long does it take, and where does the time go?"""

from typing import Final

from deploy.grafana.panels import Dashboard, Panel, Query
from deploy.grafana.promql import REQUESTS, STAGES, TASK, gauge, mean, quantiles, rate

_ALL: Final = rate("smserve_requests_total", task=TASK)
_FAILED: Final = rate("smserve_requests_total", task=TASK, code='=~"5.."')
_MODELS: Final = "instance, task, model, backend, device, dtype, sha256"

OVERVIEW: Final = Dashboard(
    "overview",
    "overview",
    [
        Panel(
            "models ready",
            [Query(gauge("smserve_model_ready"), "ready")],
            "none",
            "Summed over instances; models that were taken out of service count as 0.",
            kind="stat",
            width=4,
        ),
        Panel(
            "requests",
            [Query(_ALL, "all")],
            "reqps",
            "Answers a second, whatever their status.",
            kind="stat",
            width=4,
        ),
        Panel(
            "5xx",
            [Query(f"{_FAILED} / {_ALL}", "share")],
            "percentunit",
            "Share of the answers; the alert SmserveErrors fires above 1 %.",
            kind="stat",
            width=4,
        ),
        Panel(
            "p95 latency",
            [
                Query(
                    f"histogram_quantile(0.95, {rate(f'{REQUESTS}_bucket', 'le', task=TASK)})",
                    "p95",
                )
            ],
            "s",
            "First byte of the request to last byte of the answer.",
            kind="stat",
            width=4,
        ),
        Panel(
            "in flight",
            [Query(gauge("smserve_inflight_requests", task=TASK), "requests")],
            "none",
            "Accepted and not answered yet.",
            kind="stat",
            width=4,
        ),
        Panel(
            "oldest picture in the queue",
            [Query(gauge("smserve_queue_oldest_age_seconds", "max", task=TASK), "age")],
            "s",
            "The alert SmserveQueueAge fires above 5 s.",
            kind="stat",
            width=4,
        ),
        Panel(
            "traffic",
            [
                Query(
                    rate("smserve_requests_total", "task, code", task=TASK) + " > 0",
                    "{{task}} {{code}}",
                )
            ],
            "reqps",
            "Answers a second by task and status.",
            stacked=True,
        ),
        Panel(
            "latency",
            quantiles(REQUESTS, "task", task=TASK),
            "s",
            "Of whole requests, upload included: a slow client shows here and under read.",
        ),
        Panel(
            "where the time goes",
            [Query(mean(STAGES, "stage", task=TASK), "{{stage}}")],
            "s",
            "Mean time of a picture in each stage, stacked. queue on top: the device is the limit. "
            "decode or postprocess: the processor is. read: the clients' network is.",
            stacked=True,
        ),
        Panel(
            "where the time goes, 95th percentile",
            [
                Query(
                    f"histogram_quantile(0.95, {rate(f'{STAGES}_bucket', 'le, stage', task=TASK)})",
                    "{{stage}}",
                )
            ],
            "s",
            "Percentiles of different stages do not add up.",
        ),
        Panel(
            "pictures",
            [
                Query(
                    rate("smserve_images_total", "task, model", outcome='="ok"', task=TASK),
                    "{{model}}",
                )
            ],
            "ops",
            "Pictures a second that got an answer.",
        ),
        Panel(
            "processor",
            [
                Query(
                    rate("process_cpu_seconds_total", "instance, process", job='="smserve"'),
                    "{{instance}} {{process}}",
                )
            ],
            "none",
            "Cores in use, by process.",
        ),
        Panel(
            "memory",
            [
                Query(
                    gauge(
                        "process_resident_memory_bytes", by="instance, process", job='="smserve"'
                    ),
                    "{{instance}} {{process}}",
                )
            ],
            "bytes",
            "Resident; pictures that two processes share count in both.",
            stacked=True,
        ),
        Panel(
            "models",
            [Query(gauge("smserve_model_info", "max", _MODELS, task=TASK), "")],
            "none",
            "What answers, on what, and from which file.",
            kind="table",
        ),
    ],
)
