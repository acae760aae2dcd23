"""The forms of PromQL that the dashboards use."""

from typing import Final

from deploy.grafana.panels import Query

_QUANTILES: Final = (0.5, 0.95, 0.99)


def rate(metric: str, by: str = "", **where: str) -> str:
    """Events a second, summed up by these labels; `where` holds matchers, e.g. code='=~"5.."'."""
    matchers = {"instance": '=~"$instance"', **where}
    selector = ", ".join(f"{label}{matcher}" for label, matcher in matchers.items())
    return f"sum by ({by}) (rate({metric}{{{selector}}}[$__rate_interval]))"


def gauge(metric: str, how: str = "sum", by: str = "", **where: str) -> str:
    """The present value, summed up (or `how`) by these labels."""
    matchers = {"instance": '=~"$instance"', **where}
    selector = ", ".join(f"{label}{matcher}" for label, matcher in matchers.items())
    return f"{how} by ({by}) ({metric}{{{selector}}})"


def quantiles(histogram: str, by: str, **where: str) -> list[Query]:
    """Median, 95th and 99th percentile by one label."""
    buckets = rate(f"{histogram}_bucket", f"le, {by}", **where)
    return [
        Query(f"histogram_quantile({q}, {buckets})", f"p{q * 100:.0f} {{{{{by}}}}}")
        for q in _QUANTILES
    ]


def mean(histogram: str, by: str, **where: str) -> str:
    """Mean of what was observed lately, by these labels."""
    total, count = (rate(f"{histogram}_{part}", by, **where) for part in ("sum", "count"))
    return f"{total} / {count}"


# of the variable at the top of a page
TASK: Final = '=~"$task"'
STAGES: Final = "smserve_stage_duration_seconds"
REQUESTS: Final = "smserve_request_duration_seconds"
