"""Encoded image bytes -> upright RGB pixels. The only parser of untrusted image bytes."""

import io
import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

# Pillow's warnings are about sizes, which are checked here against our own limits, and about broken
# metadata, which costs nobody their picture. Filters are global: a context manager around each
# decode would race between threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
PICTURE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
)
# what Pillow raises on damaged files, by experience with mutated images
_DAMAGE: Final = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    AttributeError,
    RuntimeError,
)
_QUICK_PIXELS: Final = 1 << 20
_QUICK_BYTES: Final = 1 << 19
# JPEG markers that begin a frame; all but the first are rare, or progressive
_BASELINE: Final = 0xC0
_MOST_SEGMENTS: Final = 100
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SIGNATURES: Final = (
    (b"%PDF", "PDF"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML or SVG"),
    (b"8BPS", "Photoshop"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"v/1\x01", "OpenEXR"),
    (b"DDS ", "DDS"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"qoif", "QOI"),
    (b"icns", "ICNS"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"%!PS", "PostScript"),
    *((b"P%d%c" % (n, gap), "PBM, PGM or PPM") for n in range(1, 7) for gap in b" \t\r\n"),
)


class ImageDecodeError(ValueError):
    """The bytes are damaged, truncated, empty, or no image at all."""


class UnsupportedImageError(ValueError):
    """The bytes are of a known format that is not served."""


class ImageTooLargeError(ValueError):
    """Width, height or their product is over the limit; found out from the header."""


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What is refused before any pixel is decoded.

    Attributes:
        max_pixels: width x height.
        max_side: either side, pixels.
    """

    max_pixels: int = 50_000_000
    max_side: int = 16_384


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the first bytes say; sizes before the EXIF orientation is applied, pixels."""

    format: str
    width: int
    height: int


def read_header(data: bytes) -> ImageHeader:
    """Format and size, without decoding.

    Raises:
        ImageDecodeError: empty or not an image.
        UnsupportedImageError: a recognised format that is not served.
    """
    with _open(data) as image:
        return ImageHeader(str(image.format), image.width, image.height)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG file, as `read_header` would say, in microseconds.

    None for everything else, and for what the quick parser does not like.
    """
    if data[:2] != b"\xff\xd8":
        return None
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, MemoryError):
        return None
    return int(height), int(width)


def is_quick_jpeg(data: bytes) -> bool:
    """Whether `decode_rgb` takes a few milliseconds at most, and nothing in the file makes it more.

    A progressive file may hold many scans, each of which goes over the whole picture.
    """
    size = jpeg_size(data) if len(data) <= _QUICK_BYTES else None
    if size is None or size[0] * size[1] > _QUICK_PIXELS:
        return False
    return _frame_marker(data) == _BASELINE


def _frame_marker(data: bytes) -> int | None:
    """The first marker of a JPEG that begins a frame; None: not among the first segments."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if data[at : at + 1] != b"\xff" or at + 4 > len(data):
            break
        if data[at + 1] in _FRAMES:
            return data[at + 1]
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def decode_rgb(
    data: bytes, *, limits: DecodeLimits, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Decode one image, upright, as RGB; of animations the first frame.

    Transparency is composed over white, as a browser page shows it. 16-bit and floating-point
    samples are scaled to 8 bits.

    Args:
        data: an encoded JPEG, PNG, WebP, BMP, TIFF or GIF file.
        limits: checked against the header, before pixels are read.
        out: uint8, one-dimensional; where an ordinary JPEG is decoded to if there is room.

    Returns:
        (H, W, 3) uint8, contiguous, EXIF orientation applied; perhaps a view of `out`.

    Raises:
        ImageDecodeError: damaged, truncated or empty bytes.
        UnsupportedImageError: a recognised format that is not served.
        ImageTooLargeError: over the limits; the message states found and allowed sizes.
    """
    with _open(data) as image:
        check_size(image.height, image.width, limits)
        orientation = _orientation(image)
        pixels = None
        if image.format == "JPEG" and image.mode == "RGB":
            fits = (
                out is not None and orientation == 1 and 3 * image.width * image.height <= out.size
            )
            pixels = _decode_jpeg(data, out if fits else None)
        if pixels is None:
            pixels = _decode_any(image)
    return np.ascontiguousarray(_upright(pixels, orientation))


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ImageDecodeError("the image is empty (0 bytes)")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as exc:
        raise ImageTooLargeError(f"the header announces too many pixels: {exc}") from exc
    except _DAMAGE as exc:
        found = _foreign_format(data)
        if found is not None:
            raise UnsupportedImageError(
                f"{found} is not served, send one of {', '.join(FORMATS)}"
            ) from exc
        raise ImageDecodeError(
            f"not a readable image; expected one of {', '.join(FORMATS)}"
        ) from exc


def _foreign_format(data: bytes) -> str | None:
    head = data[:16]
    if head[4:8] == b"ftyp":
        return "AVIF or HEIF"
    return next((name for magic, name in _SIGNATURES if head.startswith(magic)), None)


def check_size(height: int, width: int, limits: DecodeLimits) -> None:
    """Refuse a picture by its size, pixels.

    Raises:
        ImageDecodeError: it has no pixels.
        ImageTooLargeError: over the limits; the message states found and allowed sizes.
    """
    if width < 1 or height < 1:
        raise ImageDecodeError(f"the image is {width}x{height}, expected at least 1x1")
    if max(width, height) > limits.max_side:
        raise ImageTooLargeError(
            f"the image is {width}x{height}, its longer side may have {limits.max_side} pixels"
        )
    if width * height > limits.max_pixels:
        raise ImageTooLargeError(
            f"the image is {width}x{height} = {width * height} pixels, "
            f"at most {limits.max_pixels} are allowed"
        )


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _DAMAGE:
        # broken metadata must not cost a readable picture
        return 1


def _decode_jpeg(data: bytes, out: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
    """Fast path for ordinary JPEG files; None leaves anything odd to the general path."""
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=out)
    except (ValueError, MemoryError):
        return None
    return pixels


def _decode_any(image: Image.Image) -> NDArray[np.uint8]:
    try:
        image.load()
        return np.asarray(_to_rgb(image))
    except Image.DecompressionBombError as exc:
        raise ImageTooLargeError(str(exc)) from exc
    except _DAMAGE as exc:
        raise ImageDecodeError(f"the {image.format} image is damaged or truncated") from exc


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_to_8bit(np.asarray(image)))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return image.convert("RGB")


def _to_8bit(samples: NDArray[np.int32] | NDArray[np.float32]) -> NDArray[np.uint8]:
    """Scale 32-bit samples: 0..1 floats, 0..255 or 0..65535 values, by the range in use."""
    values = np.nan_to_num(samples.astype(np.float64), posinf=0.0, neginf=0.0)
    peak = float(values.max(initial=0.0))
    if np.issubdtype(samples.dtype, np.floating) and peak <= 1.0:
        values = values * 255.0
    elif peak > 255.0:
        values = values * (255.0 / max(peak, 65535.0))
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


_EXIF_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    turn = _EXIF_TURNS.get(orientation)
    return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))
