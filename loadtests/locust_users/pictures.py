"""Photographs as strangers send them: many sizes and formats, some of them turned."""

import io
import statistics
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from loadtests.generator.payloads import random_cut, sample_pictures

# half of all pictures have less than half a megapixel, one in fifty more than seven
_MEDIAN_PIXELS: Final = 0.5e6
_SIGMA: Final = 1.3
_SMALLEST_PIXELS: Final = 96 * 96
_LARGEST_PIXELS: Final = 12_000_000
# cameras and phones write large pictures as JPEG
_ONLY_JPEG_FROM_PIXELS: Final = 2_000_000
_RARE_FORMATS: Final = ("PNG",) * 3 + ("WEBP",) * 3 + ("GIF", "BMP", "TIFF")
_ASPECTS: Final = ((4 / 3, 0.5), (3 / 2, 0.25), (16 / 9, 0.15), (1.0, 0.1))
_PORTRAIT_SHARE: Final = 0.35
_TURNED_SHARE: Final = 0.2
# EXIF's words for a quarter turn either way, and for upside down
_ORIENTATIONS: Final = (6, 8, 3)
_ORIENTATION_TAG: Final = 0x0112
_MEDIA_TYPES: Final = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}
# what costs least time to write; reading costs about the same
_ENCODING: Final[dict[str, dict[str, int]]] = {
    "JPEG": {"quality": 85},
    "PNG": {"compress_level": 1},
    "WEBP": {"quality": 80, "method": 0},
}
_GRAIN: Final = 8.0
_GRAIN_SIDE: Final = 256
_MIDDLE: Final = 128


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture.

    Attributes:
        width: as stored, which is before it is turned upright.
        orientation: of EXIF; 1 is upright.
    """

    data: bytes
    format: str
    width: int
    height: int
    orientation: int = 1

    @property
    def media_type(self) -> str:
        return _MEDIA_TYPES[self.format]

    @property
    def megapixels(self) -> float:
        return self.width * self.height / 1e6


def make_pictures(number: int = 40, seed: int = 0) -> tuple[Picture, ...]:
    """Pictures whose sizes follow a log-normal distribution, the last one of 12 megapixels.

    The same arguments make the same bytes, in every process of a distributed run.
    """
    rng = np.random.default_rng(seed)
    sources = [Image.open(io.BytesIO(data)).convert("RGB") for data in sample_pictures()]
    grain = rng.normal(_MIDDLE, _GRAIN, (_GRAIN_SIDE, _GRAIN_SIDE, 1)).astype(np.uint8)
    areas = _areas(number)
    formats = _formats(areas, rng)
    return tuple(
        _make_picture(sources[index % len(sources)], area, formats[index], grain, rng)
        for index, area in enumerate(areas)
    )


def _areas(number: int) -> list[float]:
    """Equally spaced quantiles: few pictures cover the whole distribution."""
    normal = statistics.NormalDist(float(np.log(_MEDIAN_PIXELS)), _SIGMA)
    drawn = [float(np.exp(normal.inv_cdf((i + 0.5) / number))) for i in range(number - 1)]
    return [*np.clip(drawn, _SMALLEST_PIXELS, _LARGEST_PIXELS), float(_LARGEST_PIXELS)]


def _formats(areas: list[float], rng: np.random.Generator) -> list[str]:
    small = [index for index, area in enumerate(areas) if area < _ONLY_JPEG_FROM_PIXELS]
    chosen = rng.permutation(small)[: len(_RARE_FORMATS)]
    formats = ["JPEG"] * len(areas)
    for index, name in zip(chosen, _RARE_FORMATS, strict=False):
        formats[index] = name
    return formats


def _make_picture(
    source: Image.Image,
    area: float,
    kind: str,
    grain: NDArray[np.uint8],
    rng: np.random.Generator,
) -> Picture:
    ratios, shares = zip(*_ASPECTS, strict=True)
    aspect = float(rng.choice(ratios, p=shares))
    if rng.random() < _PORTRAIT_SHARE:
        aspect = 1 / aspect
    height = round((area / aspect) ** 0.5)
    width = round(height * aspect)
    cut = random_cut(source, aspect, rng)
    # enlarged pictures are smooth, photographs are not: without grain their files were too small
    upright = _with_grain(cut.resize((width, height), Image.Resampling.BILINEAR), grain)
    orientation = 1
    if kind == "JPEG" and rng.random() < _TURNED_SHARE:
        orientation = int(rng.choice(_ORIENTATIONS))
    exif = Image.Exif()
    exif[_ORIENTATION_TAG] = orientation
    options = {"exif": exif} if orientation != 1 else {}
    buffer = io.BytesIO()
    upright.save(buffer, kind, **_ENCODING.get(kind, {}), **options)
    return Picture(buffer.getvalue(), kind, width, height, orientation)


def _with_grain(picture: Image.Image, grain: NDArray[np.uint8]) -> Image.Image:
    repeats = (-(-picture.height // _GRAIN_SIDE), -(-picture.width // _GRAIN_SIDE), 3)
    noise = np.tile(grain, repeats)[: picture.height, : picture.width]
    return ImageChops.add(picture, Image.fromarray(noise), offset=-_MIDDLE)
