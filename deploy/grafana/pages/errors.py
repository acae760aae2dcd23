"""What went wrong, whose fault it was, and what was restarted."""

from typing import Final

from deploy.grafana.panels import Dashboard, Panel, Query
from deploy.grafana.promql import TASK, gauge, rate

ERRORS: Final = Dashboard(
    "errors",
    "errors",
    [
        Panel(
            "answers other than 2xx",
            [Query(rate("smserve_requests_total", "code", code='!~"2.."', task=TASK), "{{code}}")],
            "reqps",
            "By status: 4xx are the clients', 429 is overload, 499 left, 5xx are ours.",
            stacked=True,
        ),
        Panel(
            "shares that alert",
            [
                Query(gauge("smserve:errors:ratio_rate5m", "max", "instance"), "5xx {{instance}}"),
                Query(gauge("smserve:refused:ratio_rate5m", "max", "instance"), "429 {{instance}}"),
            ],
            "percentunit",
            "Of the last five minutes. SmserveErrors above 1 %, SmserveRefusing above 5 %.",
        ),
        Panel(
            "pictures without an answer",
            [
                Query(
                    rate("smserve_images_total", "task, outcome", outcome='!="ok"', task=TASK),
                    "{{task}} {{outcome}}",
                )
            ],
            "ops",
            "By outcome: invalid is the client's, failed is ours.",
            stacked=True,
        ),
        Panel(
            "unusable pictures",
            [Query(rate("smserve_decode_errors_total", "reason"), "{{reason}}")],
            "ops",
            "Pictures a second that could not be decoded.",
        ),
        Panel(
            "refused at once",
            [Query(rate("smserve_rejected_total", "reason"), "{{reason}}")],
            "reqps",
            "Requests a second by reason.",
        ),
        Panel(
            "dropped before the device",
            [Query(rate("smserve_dropped_total", "reason"), "{{reason}}")],
            "ops",
            "Pictures a second whose client left or whose deadline passed while they waited.",
        ),
        Panel(
            "processes restarted",
            [
                Query(
                    "sum by (process, reason) (increase(smserve_process_restarts_total"
                    '{instance=~"$instance"}[15m]))',
                    "{{process}} {{reason}}",
                )
            ],
            "none",
            "In 15 minutes. Engines and front ends under a supervisor.",
        ),
        Panel(
            "service started again",
            [
                Query(
                    "sum by (instance) (changes(process_start_time_seconds"
                    '{job="smserve", instance=~"$instance", process=~"|supervisor"}[15m]))',
                    "{{instance}}",
                )
            ],
            "none",
            "In 15 minutes: the process that Docker or Kubernetes starts.",
        ),
        Panel(
            "processes",
            [Query(gauge("smserve_processes", by="instance, process"), "{{instance}} {{process}}")],
            "none",
            "Alive under a supervisor; 0 where one process does everything.",
        ),
        Panel(
            "up, draining",
            [
                Query(gauge("up", "max", "instance", job='="smserve"'), "up {{instance}}"),
                Query(gauge("smserve_draining", "max", "instance"), "draining {{instance}}"),
            ],
            "none",
            "1 or 0.",
        ),
    ],
)
