"""A run's figures as rows of a result file, and for people."""

from rich.table import Table

from benchmarks.report import Row
from loadtests.generator.histogram import LatencyHistogram
from loadtests.generator.recorder import PERCENTILES, LoadResult


def latency_rows(case: str, histogram: LatencyHistogram, prefix: str = "latency") -> list[Row]:
    """Percentiles and the longest one, milliseconds."""
    rows = [
        Row(case, f"{prefix} p{percent:g}", "ms", round(1e3 * histogram.percentile(percent), 3))
        for percent in PERCENTILES
    ]
    return [*rows, Row(case, f"{prefix} max", "ms", round(1e3 * histogram.max, 3))]


def load_rows(case: str, result: LoadResult) -> list[Row]:
    """Throughput, latency of what was accepted, and everything else by status and kind."""
    accepted = result.accepted
    rows = [
        Row(case, "throughput", "images/s", round(result.images_per_s, 2)),
        *latency_rows(case, accepted),
    ]
    for status, histogram in sorted(result.latencies.items()):
        rows.append(Row(case, f"status {status}", "requests", len(histogram)))
        if not 200 <= status < 300:
            rows += latency_rows(case, histogram, f"latency of {status}")
    rows += [Row(case, kind, "requests", n) for kind, n in sorted(result.errors.items())]
    rows += [Row(case, f"retries: {kind}", "attempts", n) for kind, n in result.retries.items()]
    rows.append(Row(case, "generator lateness max", "ms", round(1e3 * result.late, 3)))
    rows.append(Row(case, "generator cpu", "us/request", round(result.cpu_us_per_request, 1)))
    return rows


def result_table(result: LoadResult) -> Table:
    """One line per status and kind of failure."""
    table = Table(title=f"{result.images_per_s:,.1f} images/s over {result.seconds:.1f} s")
    for heading in ("outcome", "requests", "p50", "p90", "p99", "p99.9", "max"):
        table.add_column(heading, justify="left" if heading == "outcome" else "right")
    for status, histogram in sorted(result.latencies.items()):
        times = [histogram.percentile(percent) for percent in PERCENTILES] + [histogram.max]
        cells = [f"{1e3 * seconds:,.1f} ms" for seconds in times]
        table.add_row(str(status), f"{len(histogram):,}", *cells)
    for kind, number in sorted(result.errors.items()):
        table.add_row(kind, f"{number:,}")
    return table
