"""The number of cores follows the limits of a container."""

import os
from pathlib import Path

import pytest

from service import cores
from service.capacity import default_frontends
from service.cores import granted_cores, usable_cores
from service.pool import CpuPool


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("max 100000\n", None),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("10000 100000\n", 1),
        ("nonsense", None),
        ("100000", None),
    ],
)
def test_version_2(tmp_path: Path, text: str, wanted: int | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert granted_cores(tmp_path) == wanted


@pytest.mark.parametrize(("quota", "wanted"), [("-1\n", None), ("400000\n", 4), ("350000\n", 4)])
def test_version_1(tmp_path: Path, quota: str, wanted: int | None) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert granted_cores(tmp_path) == wanted


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert granted_cores(tmp_path) is None


def test_pool_and_front_ends_are_no_more_than_what_is_granted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(cores, "granted_cores", lambda: 4)
    assert usable_cores() == 4
    assert default_frontends() == 3
    pool = CpuPool()
    pool.close()
    assert pool.size == 4
    monkeypatch.setattr(cores, "granted_cores", lambda: 100)
    assert usable_cores() == 64
