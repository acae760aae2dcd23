"""What a run says at its end: on the console, as JSON, and in Locust's HTML report."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from loadtests.limiting_stage import Explanation
from loadtests.locust_users.options import LoadOptions
from loadtests.locust_users.summary import Summary

_LATE_MS: Final = 50.0
_BODY_END: Final = "</body>"
_STYLE: Final = "font-family: sans-serif; max-width: 80em; margin: 2em auto; padding: 0 1em"


def report_lines(
    options: LoadOptions,
    summary: Summary,
    explanation: Explanation | str,
    faults: Sequence[str],
) -> list[str]:
    """For people.

    Args:
        explanation: or why there is none.
        faults: limits that were not kept.
    """
    lines = [_load_line(options, summary)]
    for task, one in summary.tasks.items():
        times = ", ".join(f"{name} {ms:g} ms" for name, ms in one.ms.items())
        lines.append(
            f"{task:9} {one.ok} ok, {one.mistakes} mistakes told rightly, {one.refused} refused, "
            f"{one.failed} failed; {times or 'no times'}"
        )
    if options.is_open:
        lines += _open_loop_lines(summary)
    lines.append("")
    if isinstance(explanation, str):
        lines.append(f"limiting stage unknown: {explanation}")
    else:
        lines += explanation.lines()
    return [*lines, "", *(f"FAILED: {fault}" for fault in faults)]


def _load_line(options: LoadOptions, summary: Summary) -> str:
    loop = f"open loop, {options.rate:g} requests/s wanted" if options.is_open else "closed loop"
    return (
        f"{loop}: {summary.rate:.2f} right answers/s, {summary.images_per_s:.2f} images/s over "
        f"{summary.seconds:.1f} s; Locust used {summary.cpu_us_per_request:.0f} us/request"
    )


def _open_loop_lines(summary: Summary) -> list[str]:
    late = ", ".join(f"{name} {ms:g} ms" for name, ms in summary.late_ms.items())
    lines = [f"arrivals: {summary.offered_rate:.2f}/s, sent late by {late}"]
    if summary.unsent:
        lines.append(f"{summary.unsent} arrivals were not sent, which counts as failed")
    if summary.late_ms["p99"] > _LATE_MS:
        lines.append(
            "Locust itself was late: its times count from when requests were due, so they are too "
            "long rather than too short. Take more processes, or loadtests.generator"
        )
    return lines


def report_path(parsed: Any) -> Path | None:
    """Beside Locust's own reports where nothing else is asked for."""
    if parsed.report:
        return Path(parsed.report)
    if parsed.html_file:
        return Path(parsed.html_file).with_suffix(".json")
    if parsed.csv_prefix:
        return Path(f"{parsed.csv_prefix}_report.json")
    return None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def add_to_html(path: Path, lines: Sequence[str], *, written_after: float) -> None:
    """Append to Locust's report, if it is that of this run.

    Args:
        written_after: `time.time()`; an older file belongs to another run.
    """
    if not path.is_file() or path.stat().st_mtime < written_after:
        return
    before, end, after = path.read_text(encoding="utf-8").rpartition(_BODY_END)
    text = html.escape("\n".join(lines))
    section = f'<section style="{_STYLE}"><h2>smserve</h2><pre>{text}</pre></section>\n'
    path.write_text(f"{before}{section}{end}{after}" if end else after + section, encoding="utf-8")
