"""What all gates share: options, checks that may fail, the result file, the exit status."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.report import Row, cpu_name, write_report
from loadtests.generator.payloads import Payload, jpeg_pictures, raw_payloads
from loadtests.generator.processes import UNTITLED, pids_by_title
from loadtests.long_run import exit_on_sigterm
from loadtests.own_server import ServerProcess, smserve_process
from loadtests.scrape import scrape

Backend = Literal["stub", "auto"]
SUPERVISOR: Final = "smserve-supervisor"
ENGINE: Final = "smserve-engine[0]"
FRONT: Final = "smserve-front[0]"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateOptions:
    """How a gate is run.

    Attributes:
        frontends: of the service; 0: one process.
        backend: that computes; `auto`: the demo models.
        is_short: a few seconds, for CI; otherwise the full length.
        minutes: of gates that go on for a chosen time.
    """

    frontends: int = 0
    backend: Backend = "stub"
    is_short: bool = False
    minutes: float = 10.0

    def service(self, **settings: str) -> ServerProcess:
        """The service in this form, not started yet; settings as of `smserve_process`."""
        chosen = {"backend": self.backend, "frontends": str(self.frontends), **settings}
        return smserve_process(**chosen)

    def pick(self, short: float, full: float) -> float:
        """The value for this length."""
        return short if self.is_short else full


@dataclass(slots=True)
class GateReport:
    """Figures and failed checks of one gate.

    Attributes:
        device: that computed, where the gate asked.
    """

    gate: str
    options: GateOptions
    rows: list[Row] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    device: str = field(default_factory=cpu_name)

    def note(self, metric: str, value: float, unit: str) -> None:
        """A figure that nobody judges."""
        self.rows.append(Row(self.gate, metric, unit, round(float(value), 4)))

    def at_most(self, metric: str, value: float, limit: float, unit: str) -> None:
        """Fails above the limit."""
        self._check(metric, value, unit, is_met=value <= limit, wanted=f"at most {limit:g}")

    def at_least(self, metric: str, value: float, limit: float, unit: str) -> None:
        """Fails below the limit."""
        self._check(metric, value, unit, is_met=value >= limit, wanted=f"at least {limit:g}")

    def equal(self, metric: str, value: float, wanted: float, unit: str) -> None:
        """Fails with any other value."""
        self._check(metric, value, unit, is_met=value == wanted, wanted=f"exactly {wanted:g}")

    def fail(self, reason: str) -> None:
        self.failures.append(reason)

    def _check(self, metric: str, value: float, unit: str, *, is_met: bool, wanted: str) -> None:
        self.note(metric, value, unit)
        if not is_met:
            self.fail(f"{metric}: {value:g} {unit}, wanted {wanted}")

    def print(self) -> None:
        """A table, then what failed."""
        console = Console()
        table = Table(title=f"{self.gate}, frontends {self.options.frontends}")
        for heading in ("figure", "value", "unit"):
            table.add_column(heading, justify="right" if heading == "value" else "left")
        for row in self.rows:
            table.add_row(row.metric, f"{row.value:,g}", row.unit)
        console.print(table)
        for failure in self.failures:
            console.print(f"FAILED: {failure}", markup=False)
        if not self.failures:
            console.print("passed")


Gate = Callable[[GateOptions], GateReport]


def gate_main(gate: Gate, description: str, arguments: Sequence[str] | None = None) -> int:
    """Command line of one gate; 1 when it fails."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="result file")
    parser.add_argument("--frontends", type=int, default=0)
    parser.add_argument("--backend", choices=("stub", "auto"), default="stub")
    parser.add_argument("--short", action="store_true", help="a few seconds, as CI runs it")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the soak")
    args = parser.parse_args(arguments)
    options = GateOptions(
        frontends=args.frontends, backend=args.backend, is_short=args.short, minutes=args.minutes
    )
    report = gate(options)
    report.print()
    if args.out:
        write_report(
            args.out,
            f"gate-{report.gate}",
            report.rows,
            report.device,
            frontends=options.frontends,
            backend=options.backend,
            short=options.is_short,
            failures=report.failures,
        )
    return 1 if report.failures else 0


def run_main(gate: Gate, description: str | None) -> None:
    """For `if __name__ == "__main__"`."""
    exit_on_sigterm()
    sys.exit(gate_main(gate, description or ""))


def classify_payloads(number: int = 16) -> list[Payload]:
    """Small photographs: the gates test the service, not the decoder."""
    pictures = jpeg_pictures(160, 120, number=number, target_bytes=8_000)
    return raw_payloads("/classify", pictures)


def has_front_ends(server: ServerProcess) -> bool:
    """Whether the service runs in several processes: their titles tell."""
    return any(title != UNTITLED for title in pids_by_title(server.pid))


def device_of(server: ServerProcess) -> str:
    """Where a running server computes: the name of its GPU, with their number, or the processor."""
    answer = httpx.get(f"{server.url}/models", timeout=30).raise_for_status()
    devices = {model["device"] for model in answer.json()["models"]}
    if devices <= {"cpu"}:
        return cpu_name()
    names = scrape(server.url).label_values("smserve_gpu_info", "name")
    return gpu_names(names) or ", ".join(sorted(devices))


def gpu_names(names: Sequence[str]) -> str:
    """Each name once, with how many there are where it is several."""
    counts = Counter(names).items()
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counts)
