"""The benchmark of decoding: every process counts, for about the time it was asked to."""

import pytest

from loadtests.bench_decode import decoding_rows, images_per_s
from loadtests.generator.payloads import jpeg_pictures


def test_processes_add_up() -> None:
    pictures = jpeg_pictures(64, 48, number=2, target_bytes=2000)
    alone = images_per_s(pictures, 64 * 48, 0.2, 1)
    # loosely: other work may have the cores
    assert images_per_s(pictures, 64 * 48, 0.2, 2) > 0.5 * alone > 100


def test_the_rows_are_of_one_process_and_of_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtests.bench_decode.usable_cores", lambda: 2)
    pictures = jpeg_pictures(64, 48, number=2, target_bytes=2000)
    rows = decoding_rows("x", pictures, 0.05)
    assert [row.case for row in rows] == ["x-1-processes", "x-2-processes"]
    assert all(row.value > 0 for row in rows)
    with pytest.raises(ValueError, match="no JPEG"):
        decoding_rows("x", [b"nothing"], 0.05)
