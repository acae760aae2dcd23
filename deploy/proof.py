"""Figures, promises that were kept, and those that were broken."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Proof:
    """What was seen.

    Attributes:
        rows: metric, unit, value.
        kept: promises, in words.
        failures: what was seen instead of what was promised.
    """

    rows: list[tuple[str, str, float]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def note(self, metric: str, value: float, unit: str) -> None:
        """A figure."""
        print(f"{metric:55} {value:12.2f} {unit}", flush=True)
        self.rows.append((metric, unit, round(float(value), 3)))

    def equal(self, what: str, seen: object, promised: object) -> None:
        """A promise."""
        if seen == promised:
            print(f"{what:55} {seen}", flush=True)
            self.kept.append(f"{what}: {seen}")
        else:
            self.fail(f"{what}: {seen!r}, promised {promised!r}")

    def at_most(self, metric: str, value: float, limit: float, unit: str) -> None:
        """A figure with a limit."""
        self.note(metric, value, unit)
        if value > limit:
            self.fail(f"{metric}: {value:.2f} {unit}, promised at most {limit:g}")

    def fail(self, text: str) -> None:
        """A broken promise."""
        print(f"BROKEN: {text}", flush=True)
        self.failures.append(text)
