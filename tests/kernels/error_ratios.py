"""How far a kernel is from float64, beside its reference in the same dtype."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Outputs = Sequence[Tensor]


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel on one set of inputs.

    Attributes:
        kernel: runs the kernel.
        reference: runs the reference on the same values; True: in float64.
    """

    kernel: Callable[[], Outputs]
    reference: Callable[[bool], Outputs]


def max_ratio(dtype: torch.dtype, device: str) -> float:
    """Largest allowed `error_ratio`.

    On a GPU float32 serves tests alone; its products are single chains of multiply-adds, where the
    library's are sums of sums (docs/numerics.md).
    """
    return 5.0 if dtype == torch.float32 and device == "cuda" else 2.0


def error_ratio_of(op: str, case: Case) -> tuple[float, float]:
    """Largest error of a kernel against float64, and errors over those of its reference.

    The ratio is the larger one of root mean squares and of maxima. The maximum of a few values is
    luck: a reference is never taken for better than one rounding of the largest value, in float32,
    where hundreds of roundings add up in either, than four.

    Raises:
        AssertionError: NaN or Inf, or another shape or dtype than the reference.
    """
    worst, ratio = 0.0, 0.0
    baselines, oracles = case.reference(False), case.reference(True)
    for got, baseline, oracle in zip(case.kernel(), baselines, oracles, strict=True):
        assert got.isfinite().all(), f"{op}: NaN or Inf"
        assert (got.shape, got.dtype) == (baseline.shape, baseline.dtype)
        error, reference = (got.double() - oracle).abs(), (baseline.double() - oracle).abs()
        roundings = 4 if got.dtype == torch.float32 else 1
        floor = oracle.abs().max().item() * torch.finfo(got.dtype).eps / 2 * roundings
        worst = max(worst, error.max().item())
        largest = error.max().item() / max(reference.max().item(), floor, 1e-30)
        typical = _rms(error) / max(_rms(reference), floor / 16, 1e-30)
        ratio = max(ratio, largest, typical)
    return worst, ratio


def _rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()
