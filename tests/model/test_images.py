"""Every odd kind of image file: the right pixels, or one clear error."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from model.images import (
    DecodeLimits,
    ImageDecodeError,
    ImageTooLargeError,
    UnsupportedImageError,
    decode_rgb,
    is_quick_jpeg,
    read_header,
)
from tests.model import golden

LIMITS = DecodeLimits(max_pixels=1_000_000, max_side=5_000)


def gradient(height: int = 24, width: int = 40) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack((x * 255 // width, y * 255 // height, (x + y) % 256), -1).astype(np.uint8)


def encode(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_lossless_formats_give_the_exact_pixels(kind: str) -> None:
    pixels = np.zeros((5, 7, 3), np.uint8)
    pixels[1:3, 2:6] = (255, 0, 0)
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(pixels, kind, **options)
    assert np.array_equal(decode_rgb(data, limits=LIMITS), pixels)
    header = read_header(data)
    assert (header.format, header.width, header.height) == (kind, 7, 5)


@pytest.mark.parametrize("name", ["china", "coffee", "flower", "rocket"])
def test_photographs_decode_as_the_published_pipelines_do(name: str) -> None:
    data = (golden.ROOT / "images" / f"{name}.jpg").read_bytes()
    case, _ = golden.load_case(f"classify_tiny_photo_{name}")
    pixels = decode_rgb(data, limits=DecodeLimits())
    assert f"{zlib.crc32(pixels.tobytes()):08x}" == case["photo"]["decoded_rgb_crc32"]
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pictures_come_out_upright(orientation: int, kind: str) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = (250, 30, 30)
    upright[16:, 24:] = (30, 30, 250)
    # how the camera stored it, so that turning by the EXIF value restores it
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind == "JPEG" else {}
    data = encode(np.ascontiguousarray(stored), kind, exif=exif, **options)
    got = decode_rgb(data, limits=LIMITS)
    assert got.shape == upright.shape
    assert np.abs(got.astype(int) - upright).mean() < 6


def test_transparency_is_composed_over_white() -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2] = (10, 20, 30, 255)
    expected = np.full((4, 4, 3), 255, np.uint8)
    expected[:2] = (10, 20, 30)
    assert np.array_equal(decode_rgb(encode(rgba, "PNG"), limits=LIMITS), expected)
    half = np.full((2, 2, 2), 128, np.uint8)
    grey = decode_rgb(encode(Image.fromarray(half, "LA"), "PNG"), limits=LIMITS)
    assert (grey == 191).all()


def test_palette_with_transparency() -> None:
    image = Image.new("P", (3, 2), 0)
    image.putpalette([200, 10, 10, 0, 0, 255])
    image.putpixel((0, 0), 1)
    data = encode(image, "PNG", transparency=0)
    got = decode_rgb(data, limits=LIMITS)
    assert got[0, 0].tolist() == [0, 0, 255]
    assert got[1, 1].tolist() == [255, 255, 255]


def test_sixteen_bit_and_float_samples_are_scaled() -> None:
    deep = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        got = decode_rgb(encode(Image.fromarray(deep), kind), limits=LIMITS)
        assert np.abs(got[..., 0].astype(int) - (deep >> 8)).max() <= 1, kind
    unit = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    got = decode_rgb(encode(Image.fromarray(unit), "TIFF"), limits=LIMITS)
    assert np.abs(got[..., 1] - unit * 255).max() <= 1


def test_cmyk_and_grey_jpegs() -> None:
    red = Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK")
    got = decode_rgb(encode(red, "JPEG", quality=95), limits=LIMITS)
    assert np.abs(got.astype(int) - (255, 0, 0)).max() < 12
    grey = Image.new("L", (16, 16), 77)
    assert np.abs(decode_rgb(encode(grey, "JPEG"), limits=LIMITS).astype(int) - 77).max() < 3


def test_one_bit_images() -> None:
    image = Image.new("1", (9, 3), 0)
    image.putpixel((4, 1), 1)
    got = decode_rgb(encode(image, "PNG"), limits=LIMITS)
    assert got[1, 4].tolist() == [255, 255, 255]
    assert got.sum() == 3 * 255


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_animations_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in ((0, 128, 0), (255, 0, 0))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (decode_rgb(data, limits=LIMITS) == (0, 128, 0)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 999), (999, 1)])
def test_thin_images(size: tuple[int, int]) -> None:
    assert decode_rgb(encode(gradient(*size), "PNG"), limits=LIMITS).shape == (*size, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(noise, kind)
    with pytest.raises(ImageDecodeError):
        decode_rgb(data[: int(len(data) * share)], limits=LIMITS)


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ImageDecodeError):
        decode_rgb(data, limits=LIMITS)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"%PDF-1.7 ....", "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\x00\x00\x00\x1cftypheic" + b"\0" * 20, "HEIF"),
        (b"\x00\x00\x01\x00\x01\x00", "ICO"),
        (b"P6\n2 1\n255\n......", "PPM"),
        (b"P5 2 1 255 ..", "PGM"),
        (b"qoif\x00\x00\x00\x02", "QOI"),
    ],
)
def test_formats_that_are_not_served_are_named(data: bytes, name: str) -> None:
    with pytest.raises(UnsupportedImageError, match=name):
        decode_rgb(data, limits=LIMITS)


def png_announcing(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes whose header announces any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(5_001, 1), (1_001, 1_000), (12_000, 12_000), (60_000, 60_000)])
def test_bombs_are_refused_by_their_header(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooLargeError):
        decode_rgb(png_announcing(*size), limits=LIMITS)


def test_broken_exif_does_not_cost_the_picture() -> None:
    data = encode(gradient(), "JPEG", exif=b"Exif\0\0garbage that is no TIFF structure")
    assert decode_rgb(data, limits=LIMITS).shape == (24, 40, 3)


def test_mutated_files_never_surprise() -> None:
    rng = np.random.default_rng(7)
    originals = [encode(gradient(), k) for k in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")]
    for _ in range(600):
        data = bytearray(originals[rng.integers(len(originals))])
        for _ in range(rng.integers(1, 12)):
            data[rng.integers(len(data))] = rng.integers(256)
        try:
            pixels = decode_rgb(bytes(data), limits=LIMITS)
        except (ImageDecodeError, ImageTooLargeError, UnsupportedImageError):
            continue
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("data", "is_quick"),
    [
        (encode(gradient(), "JPEG"), True),
        (encode(gradient(1024, 1024), "JPEG"), True),
        (encode(gradient(1024, 1025), "JPEG"), False),
        (encode(gradient(), "JPEG", progressive=True), False),
        (encode(noise(700, 700), "JPEG", quality=100), False),
        (encode(gradient(), "PNG"), False),
        (encode(gradient(), "JPEG")[:100], False),
        (b"", False),
    ],
    ids=["small", "a million", "more", "progressive", "many bytes", "PNG", "truncated", "empty"],
)
def test_which_files_are_quick(data: bytes, is_quick: bool) -> None:
    assert is_quick_jpeg(data) is is_quick
