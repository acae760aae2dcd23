"""What a server's /metrics say."""

from dataclasses import dataclass
from typing import Final
from urllib.request import urlopen

_TIMEOUT_S: Final = 30.0


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


def scrape(*urls: str) -> Scrape:
    """Read the metrics of a service; of several replicas, all of them.

    Raises:
        OSError: one does not answer, or not with 200.
        ValueError: with something else than metrics.
        ImportError: prometheus-client is not installed.
    """
    # whoever only sends requests, with a Locust of their own, gets by without it
    from prometheus_client.parser import text_string_to_metric_families

    texts = []
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r}: expected an address that begins with http")
        with urlopen(f"{url.rstrip('/')}/metrics", timeout=_TIMEOUT_S) as answer:  # noqa: S310
            texts.append(answer.read().decode("utf-8"))
    families = (family for text in texts for family in text_string_to_metric_families(text))
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
