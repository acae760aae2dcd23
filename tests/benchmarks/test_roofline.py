"""The ceilings, against those of an earlier count over the published layer shapes."""

import pytest

from benchmarks.roofline import images_per_second


@pytest.mark.parametrize(
    ("task", "hw", "expected"),
    [
        ("classify", (224, 224), (22_814, 16_089, 10_302)),
        ("segment", (512, 512), (1_231, 1_100, 911)),
        ("detect", (800, 1344), (659, 521, 369)),
    ],
)
def test_ceilings(task: str, hw: tuple[int, int], expected: tuple[int, int, int]) -> None:
    got = [images_per_second(task, variant, *hw) for variant in ("tiny", "small", "base")]
    assert [round(ceiling) for ceiling in got] == list(expected)
