"""Small encoded pictures of every kind."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

RED = (220, 20, 30)


def picture(width: int = 64, height: int = 48, colour: tuple[int, int, int] = RED) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def encode(image: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def jpeg(
    width: int = 64, height: int = 48, colour: tuple[int, int, int] = RED, **options: Any
) -> bytes:
    return encode(picture(width, height, colour), "JPEG", **options)


def png(width: int = 64, height: int = 48) -> bytes:
    return encode(picture(width, height), "PNG")


def photo(width: int = 320, height: int = 240, seed: int = 0) -> bytes:
    """A JPEG that does not compress to nothing."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    return encode(image, "JPEG", quality=85)


def rotated_jpeg(orientation: int) -> bytes:
    """64 x 48 pixels in the file, turned by its EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(64, 48, exif=exif)


def animated_gif() -> bytes:
    frames = [picture(colour=colour) for colour in (RED, (0, 200, 0), (0, 0, 200))]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:])


def sixteen_bit_png() -> bytes:
    samples = np.full((48, 64), 40_000, np.uint16)
    return encode(Image.fromarray(samples), "PNG")


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds almost no data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def decompression_bomb(side: int) -> bytes:
    """A complete, tiny PNG of `side` x `side` black pixels."""
    return encode(Image.new("1", (side, side)), "PNG")


def _mode(mode: str, format_name: str) -> Callable[[], bytes]:
    return lambda: encode(picture().convert(mode), format_name)


READABLE: dict[str, Callable[[], bytes]] = {
    "jpeg": jpeg,
    "progressive jpeg": lambda: jpeg(progressive=True),
    "png": png,
    "webp": lambda: encode(picture(), "WEBP"),
    "bmp": lambda: encode(picture(), "BMP"),
    "tiff": lambda: encode(picture(), "TIFF"),
    "gif": lambda: encode(picture(), "GIF"),
    "animated gif": animated_gif,
    "cmyk jpeg": _mode("CMYK", "JPEG"),
    "cmyk tiff": _mode("CMYK", "TIFF"),
    "grey jpeg": _mode("L", "JPEG"),
    "palette png": _mode("P", "PNG"),
    "black and white png": _mode("1", "PNG"),
    "alpha png": _mode("RGBA", "PNG"),
    "grey with alpha png": _mode("LA", "PNG"),
    "16-bit png": sixteen_bit_png,
}
