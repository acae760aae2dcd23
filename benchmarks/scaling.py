"""Arithmetic of many GPUs; the page docs/scaling.md shows it with our figures."""

import math
from dataclasses import dataclass
from typing import Final

DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What is not measured here; everyone has other figures, and should put them in.

    Attributes:
        share: of its measured rate that a GPU is planned to do.
        scrape_s: Prometheus asks so often, as in deploy/k8s.
        poll_s: KEDA asks Prometheus so often, as in deploy/k8s.
        autoscaler_s: the horizontal pod autoscaler looks so often, Kubernetes' default.
        process_s: a pod is scheduled, its process imports everything and reads its model files.
        node_s: a cloud brings a new node with its driver.
        image_bytes: of the GPU image, as it is pulled.
        unpack_bytes_per_s: of a node that unpacks an image.
        registry_gbit_per_s: what the registry delivers to all nodes together.
        node_gbit_per_s: network of a node.
        gpus_per_node: of a large machine.
        days_between_failures: of one GPU, with all that can take its pod away.
    """

    share: float = 0.7
    scrape_s: float = 15.0
    poll_s: float = 15.0
    autoscaler_s: float = 15.0
    process_s: float = 15.0
    node_s: float = 180.0
    image_bytes: float = 8e9
    unpack_bytes_per_s: float = 200e6
    registry_gbit_per_s: float = 40.0
    node_gbit_per_s: float = 25.0
    gpus_per_node: int = 8
    days_between_failures: float = 30.0


def gpus_for(images_per_s: float, per_gpu: float, share: float) -> int:
    """The fewest GPUs that do so much, each at this share of its measured rate."""
    return math.ceil(images_per_s / (per_gpu * share))


def mean_wait(load: float) -> float:
    """Mean wait before a single server with equal service times and random arrivals (M/D/1).

    Args:
        load: arrivals per service time, below 1.

    Returns:
        in service times.
    """
    return load / (2 * (1 - load))


def share_before_ramp(reaction_s: float, doubling_s: float) -> float:
    """Highest load, of 1, at which load may begin to grow and just fill what there is.

    It grows by the same factor every second, doubling every `doubling_s`, until help comes
    after `reaction_s`.
    """
    return float(2 ** (-reaction_s / doubling_s))


def pull_s(
    size_bytes: float, nodes: int, *, registry_gbit_per_s: float, node_gbit_per_s: float
) -> float:
    """Seconds until all nodes have pulled the same: the registry's line, or each node's."""
    gbit = 8 * size_bytes / 1e9
    return max(nodes * gbit / registry_gbit_per_s, gbit / node_gbit_per_s)


def failures_per_day(gpus: int, days_between: float) -> float:
    """Of all of them together."""
    return gpus / days_between


def mean_away(gpus: int, restart_s: float, days_between: float) -> float:
    """GPUs that are restarting, on the average (Little: rate x time)."""
    return failures_per_day(gpus, days_between) * restart_s / DAY_S


def gbit_per_s(images_per_s: float, image_bytes: float) -> float:
    """Of what comes in."""
    return images_per_s * image_bytes * 8 / 1e9


def cores_for(images_per_s: float, per_core: float) -> float:
    """Cores that do nothing else."""
    return images_per_s / per_core


def cost_per_million(price_per_hour: float, per_gpu: float, share: float) -> float:
    """Of a million images, in the currency of the price of a GPU hour."""
    return price_per_hour / (per_gpu * share * 3600) * 1e6
