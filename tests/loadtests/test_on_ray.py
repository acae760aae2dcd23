"""A real cluster on this machine: two replicas with the stub; `make prove-ray` does the rest."""

import pytest

from loadtests.gates import on_ray
from loadtests.gates.gate import GateOptions


@pytest.mark.slow
def test_two_replicas() -> None:
    report = on_ray.run(GateOptions(is_short=True))
    report.print()
    assert report.failures == []
    assert report.rows
