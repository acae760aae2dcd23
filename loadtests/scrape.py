"""What a server's /metrics say."""

from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class Scrape:
    """All samples of one moment: (name, labels) and value."""

    samples: tuple[tuple[str, dict[str, str], float], ...]

    def total(self, name: str, **labels: str) -> float:
        """Sum over all samples that have these labels, whatever others they have; 0 for none."""
        return sum(
            value
            for own, found, value in self.samples
            if own == name and labels.items() <= found.items()
        )

    def label_values(self, name: str, label: str) -> list[str]:
        """Of all samples with this name, one each."""
        return [found[label] for own, found, _ in self.samples if own == name and label in found]

    def has(self, name: str) -> bool:
        return any(own == name for own, _, _ in self.samples)


def scrape(url: str) -> Scrape:
    """Read the metrics of a server.

    Raises:
        httpx.HTTPError: it does not answer, or not with 200.
    """
    response = httpx.get(f"{url}/metrics", timeout=30).raise_for_status()
    families = text_string_to_metric_families(response.text)
    return Scrape(
        tuple(
            (one.name, dict(one.labels), one.value) for family in families for one in family.samples
        )
    )


def mean_between(before: Scrape, after: Scrape, histogram: str, **labels: str) -> float | None:
    """Mean of what a histogram has counted between two moments; None when that is nothing."""
    count, total = (
        after.total(f"{histogram}_{what}", **labels) - before.total(f"{histogram}_{what}", **labels)
        for what in ("count", "sum")
    )
    return total / count if count > 0 else None
