"""The decoders of the page against the libraries that write its input."""

import base64
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Error, Page
from pycocotools import mask as coco_mask

from service.palette import class_colours
from tests.service.browser.conftest import Watch

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(browser: Browser, base_url: str) -> Iterator[Page]:
    """One for all tests: functions that decode leave nothing behind."""
    watch = Watch()
    context = browser.new_context()
    page = context.new_page()
    watch.follow(page)
    page.goto(base_url)
    yield page
    context.close()
    watch.check(base_url)


@pytest.fixture
def call(page: Page) -> Callable[[str, str, Any], Any]:
    """Runs a function body over one module of the page."""

    def run(file: str, source: str, argument: Any) -> Any:
        load = f"await import(new URL('static/playground/{file}.js', document.baseURI))"
        return page.evaluate(f"async (argument) => {{ const module = {load}; {source} }}", argument)

    return run


def _masks() -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    generator = np.random.default_rng(7)
    shapes = [(1, 1), (1, 40), (40, 1), (17, 23), (64, 48), (300, 500)]
    masks = [
        (generator.random(shape) < density).astype(np.uint8)
        for shape in shapes
        for density in (0.02, 0.5, 0.98)
    ]
    block = np.zeros((900, 700), dtype=np.uint8)
    block[100:850, 30:690] = 1
    return [*masks, np.zeros((9, 5), np.uint8), np.ones((9, 5), np.uint8), block]


@pytest.mark.parametrize("mask", _masks(), ids=lambda mask: f"{mask.shape}-{mask.mean():.2f}")
def test_run_lengths_decode_to_the_mask(
    call: Callable[[str, str, Any], Any], mask: np.ndarray[Any, np.dtype[np.uint8]]
) -> None:
    height, width = mask.shape
    encoded = coco_mask.encode(np.asfortranarray(mask))
    rle = {"size": [height, width], "counts": encoded["counts"].decode()}
    got = call(
        "rle",
        """const [height, width] = argument.size;
        const ends = module.runEnds(argument);
        const window = {x: 0, y: 0, width, height, columns: width, rows: height};
        const samples = module.sampleMask(ends, argument.size, window);
        return {bits: samples.join(""), extent: module.maskExtent(ends, argument.size)};""",
        rle,
    )
    decoded = np.array([int(bit) for bit in got["bits"]], dtype=np.uint8).reshape(mask.shape)
    np.testing.assert_array_equal(decoded, mask)
    left, top, box_width, box_height = coco_mask.toBbox(encoded)
    if mask.any():
        assert got["extent"] == {
            "left": left,
            "top": top,
            "right": left + box_width - 1,
            "bottom": top + box_height - 1,
        }
    else:
        assert got["extent"] is None


def test_mask_is_sampled_at_another_resolution(call: Callable[[str, str, Any], Any]) -> None:
    mask = (np.random.default_rng(1).random((30, 40)) < 0.5).astype(np.uint8)
    encoded = coco_mask.encode(np.asfortranarray(mask))
    rows, columns = 75, 100
    window = {"x": 10, "y": 5, "width": 60, "height": 33, "columns": columns, "rows": rows}
    got = call(
        "rle",
        "return module.sampleMask(module.runEnds(argument.rle), argument.rle.size,"
        " argument.window).join('')",
        {"rle": {"size": [30, 40], "counts": encoded["counts"].decode()}, "window": window},
    )
    y = np.floor((np.arange(5, 38) + 0.5) * 30 / rows).astype(int)
    x = np.floor((np.arange(10, 70) + 0.5) * 40 / columns).astype(int)
    expected = mask[np.ix_(y, x)]
    np.testing.assert_array_equal(np.array([int(bit) for bit in got]).reshape(33, 60), expected)


@pytest.mark.parametrize(
    ("counts", "message"), [("~~", "damaged"), ("11", "expected 4 x 5"), ("4", "cover 4 pixels")]
)
def test_damaged_run_lengths_are_refused(
    call: Callable[[str, str, Any], Any], counts: str, message: str
) -> None:
    with pytest.raises(Error, match=message):
        call("rle", "return module.runEnds(argument)", {"size": [4, 5], "counts": counts})


def _png(pixels: np.ndarray[Any, np.dtype[np.uint8]], filters: list[int], colour: int = 0) -> bytes:
    """Grey PNG whose row `i` uses filter `filters[i % len(filters)]`."""
    height, width = pixels.shape
    padded = np.zeros((height + 1, width + 1), dtype=np.int64)
    padded[1:, 1:] = pixels
    here, left, up, corner = padded[1:, 1:], padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    estimate = left + up - corner
    to_left, to_up, to_corner = (abs(estimate - near) for near in (left, up, corner))
    nearest_is_left = (to_left <= to_up) & (to_left <= to_corner)
    paeth = np.where(nearest_is_left, left, np.where(to_up <= to_corner, up, corner))
    guesses = [np.zeros_like(here), left, up, (left + up) // 2, paeth]
    rows = [
        bytes([kind]) + ((here[row] - guesses[kind][row]) % 256).astype(np.uint8).tobytes()
        for row in range(height)
        for kind in [filters[row % len(filters)]]
    ]
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    packed = zlib.compress(b"".join(rows))
    half = len(packed) // 2
    gamma = struct.pack(">I", 45455)
    parts = [
        (b"IHDR", header),
        (b"gAMA", gamma),  # would change the values in a colour-managed browser
        (b"IDAT", packed[:half]),
        (b"IDAT", packed[half:]),
        (b"IEND", b""),
    ]
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("filters", [[0], [1], [2], [3], [4], [4, 2, 0, 3, 1]], ids=str)
def test_label_map_values_are_exact(
    call: Callable[[str, str, Any], Any], filters: list[int]
) -> None:
    generator = np.random.default_rng(3)
    labels = np.concatenate(
        [np.arange(256, dtype=np.uint8).reshape(4, 64), generator.integers(0, 256, (37, 64))]
    ).astype(np.uint8)
    got = call(
        "label_map",
        "return module.readLabelMap(argument).then("
        "({width, height, ids}) => [width, height, [...ids]])",
        base64.b64encode(_png(labels, filters)).decode(),
    )
    assert got[:2] == [64, 41]
    np.testing.assert_array_equal(np.array(got[2]).reshape(41, 64), labels)


def test_other_png_kinds_are_refused(call: Callable[[str, str, Any], Any]) -> None:
    palette = base64.b64encode(_png(np.zeros((2, 2), np.uint8), [0], colour=3)).decode()
    with pytest.raises(Error, match="expected 8-bit grey"):
        call("label_map", "return module.readLabelMap(argument)", palette)
    with pytest.raises(Error, match="not a PNG"):
        call("label_map", "return module.readLabelMap(argument)", "AAAAAAAAAAAAAAAA")


def test_colours_are_those_of_the_overlay_pictures(call: Callable[[str, str, Any], Any]) -> None:
    got = call(
        "palette", "return Array.from({length: argument}, (_, i) => module.classColour(i))", 256
    )
    np.testing.assert_array_equal(np.array(got), class_colours())
