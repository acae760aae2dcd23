"""The benchmark of decoding: every process counts, for about the time it was asked to."""

from loadtests.bench_decode import images_per_s
from loadtests.generator.payloads import jpeg_pictures


def test_processes_add_up() -> None:
    pictures = jpeg_pictures(64, 48, number=2, target_bytes=2000)
    alone = images_per_s(pictures, 64 * 48, 0.2, 1)
    # loosely: other work may have the cores
    assert images_per_s(pictures, 64 * 48, 0.2, 2) > 0.5 * alone > 100
