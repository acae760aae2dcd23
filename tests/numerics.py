"""Comparisons shared by the tests."""

from torch import Tensor


def assert_no_worse_than(got: Tensor, baseline: Tensor, oracle: Tensor, *, factor: float) -> None:
    """Max error of `got` is at most `factor` times that of `baseline`, both against `oracle`."""
    assert oracle.dtype.itemsize == 8, "the oracle is computed in float64"
    assert got.isfinite().all(), "got has NaN or Inf"
    error = (got.double() - oracle).abs().max().item()
    allowed = factor * (baseline.double() - oracle).abs().max().item()
    # one rounding of the largest value is always allowed: tiny cases can be exact by luck
    allowed = max(allowed, oracle.abs().max().item() * 1.2e-7)
    assert error <= allowed, f"max error {error:.3e} > {factor} x baseline ({allowed:.3e})"
