"""Results drawn on the picture: captions, boxes with masks, coloured class maps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from model.config import ModelSpec
from model.results import Classification, Detections, Result, Rle, Segmentation
from service.answers import (
    AnswerOptions,
    class_areas,
    kept_detections,
    mask_region,
    ranked_classes,
)
from service.palette import Colour, class_colour, class_colours, ink_on

# Without a threshold of the client's own: a hundred faint boxes hide the picture.
DRAWN_SCORE: Final = 0.3
MAX_LEGEND_ROWS: Final = 8
# a class of this name is what remains: it stays clear, as in the playground
CLEAR_CLASS: Final = "background"

_MASK_TINT: Final = 0.42
_MAP_TINT: Final = 0.58
_PANEL_FILL: Final = (14, 17, 23, 188)
_PANEL_INK: Final = (255, 255, 255, 255)
_PANEL_DIM_INK: Final = (196, 203, 214, 255)
_BAR_FILL: Final = (86, 156, 255, 235)
_TRACK_FILL: Final = (255, 255, 255, 44)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Area = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom excluded


@dataclass(frozen=True, slots=True)
class PanelRow:
    """One line of a panel: a swatch (legend) or a bar (caption), a name, a percentage."""

    text: str
    fraction: float
    swatch: Colour | None


def draw_overlay(
    rgb: NDArray[np.uint8], spec: ModelSpec, result: Result, options: AnswerOptions
) -> bytes:
    """PNG of the picture with the result drawn on it, of the same size as the picture.

    classify: a panel with the best classes along the lower edge. detect: tinted masks with
    outlines, boxes, and name tags; without a threshold in `options`, objects of at least
    `DRAWN_SCORE`. segment: the colours of the classes over the picture and a legend of the
    largest; the class `background` stays clear. Text grows with the picture and is left out
    where it would not fit.

    Args:
        rgb: (H, W, 3) uint8, the upright original image; not changed.
        spec: the model that made `result`.
        result: of the same image.
        options: the filters of the JSON answer; `masks="none"` draws boxes only.
    """
    canvas = np.ascontiguousarray(rgb).copy()
    if isinstance(result, Classification):
        picture = Image.fromarray(canvas)
        _draw_caption(picture, spec, result, options)
    elif isinstance(result, Segmentation):
        picture = _draw_class_map(canvas, spec, result, options)
    else:
        picture = _draw_objects(canvas, spec, result, options)
    return _png(np.asarray(picture))


def _png(rgb: NDArray[np.uint8]) -> bytes:
    done, encoded = cv2.imencode(
        ".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 2]
    )
    if not done:
        raise ValueError(f"cannot write a PNG of shape {rgb.shape}")
    return bytes(encoded.tobytes())


def _scale(height: int, width: int) -> float:
    """Length by which strokes and text grow, pixels; about the side of a square picture."""
    return min(math.sqrt(height * width), 3.0 * min(height, width))


@lru_cache(maxsize=64)
def _font(size: int) -> Font:
    return ImageFont.load_default(size=size)


def _font_size(height: int, width: int) -> int:
    return max(11, round(_scale(height, width) * 0.026))


def _text_size(text: str, font: Font) -> tuple[int, int]:
    """Width of `text` and height of any line of the font, pixels."""
    _, top, _, bottom = font.getbbox("Ápg|")
    return round(font.getlength(text)), round(bottom - top)


def _fit_text(text: str, font: Font, room: float) -> str:
    """`text`, shortened by an ellipsis until it is at most `room` pixels wide; may be empty."""
    if font.getlength(text) <= room:
        return text
    for end in range(len(text) - 1, 0, -1):
        short = text[:end].rstrip() + "…"
        if font.getlength(short) <= room:
            return short
    return ""


# Objects


def _draw_objects(
    canvas: NDArray[np.uint8], spec: ModelSpec, result: Detections, options: AnswerOptions
) -> Image.Image:
    if options.threshold is None:
        options = replace(options, threshold=DRAWN_SCORE)
    kept = kept_detections(result, options)
    height, width = canvas.shape[:2]
    stroke = max(1, round(_scale(height, width) / 330))
    masks = result.masks if options.masks != "none" else None
    # the best object is drawn last, on top
    for index in reversed(kept):
        if masks is not None:
            _draw_mask(canvas, masks[index], class_colour(int(result.class_ids[index])), stroke)
    boxes = {index: _pixel_box(result.boxes[index], height, width) for index in kept}
    for index in reversed(kept):
        left, top, right, bottom = boxes[index]
        colour = class_colour(int(result.class_ids[index]))
        _draw_frame(canvas, (left, top, right, bottom), colour, stroke)
    picture = Image.fromarray(canvas)
    taken: list[Area] = []
    for index in kept:
        class_id = int(result.class_ids[index])
        text = f"{spec.class_names[class_id]} {float(result.scores[index]):.0%}"
        _draw_tag(picture, boxes[index], text, class_colour(class_id), taken)
    return picture


def _pixel_box(box: NDArray[np.float32], height: int, width: int) -> Area:
    """Pixels that a box touches, at least one, inside the picture."""
    x1, y1, x2, y2 = (float(edge) for edge in box)
    left = min(max(int(np.floor(x1)), 0), width - 1)
    top = min(max(int(np.floor(y1)), 0), height - 1)
    right = min(max(int(np.ceil(x2)), left + 1), width)
    bottom = min(max(int(np.ceil(y2)), top + 1), height)
    return left, top, right, bottom


def _draw_mask(canvas: NDArray[np.uint8], mask: Rle, colour: Colour, stroke: int) -> None:
    x, y, inside = mask_region(mask)
    if inside.size == 0:
        return
    height, width = inside.shape
    _tint(canvas[y : y + height, x : x + width], inside.astype(bool), colour, _MASK_TINT)
    contours, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))
    cv2.polylines(canvas, contours, True, colour, max(1, stroke - 1), cv2.LINE_AA)


def _tint(
    region: NDArray[np.uint8], inside: NDArray[np.bool_], colour: Colour, strength: float
) -> None:
    """Mix `colour` into the pixels of `region` where `inside`; (h, w, 3) and (h, w)."""
    values = np.arange(256)[:, None] * (1.0 - strength) + np.array(colour) * strength
    table = np.rint(values).astype(np.uint8)[:, None]
    np.copyto(region, cv2.LUT(region, table), where=inside[:, :, None])


def _draw_frame(canvas: NDArray[np.uint8], box: Area, colour: Colour, stroke: int) -> None:
    """A frame whose outer edge is the box."""
    left, top, right, bottom = box
    inner = min(stroke, right - left, bottom - top)
    canvas[top : top + inner, left:right] = colour
    canvas[bottom - inner : bottom, left:right] = colour
    canvas[top:bottom, left : left + inner] = colour
    canvas[top:bottom, right - inner : right] = colour


def _draw_tag(
    picture: Image.Image, box: Area, text: str, colour: Colour, taken: list[Area]
) -> None:
    """A filled name tag at a corner of the box, inside the picture, off other tags if it can."""
    width, height = picture.size
    font = _font(_font_size(height, width))
    pad = max(2, round(_font_size(height, width) * 0.28))
    text = _fit_text(text, font, width - 2 * pad)
    text_width, text_height = _text_size(text, font)
    size = (text_width + 2 * pad, text_height + 2 * pad)
    if not text or size[1] > height:
        return
    area = _place_tag(box, size, (width, height), taken)
    taken.append(area)
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = area
    draw.rounded_rectangle((left, top, right - 1, bottom - 1), radius=pad, fill=colour)
    middle = ((left + right) / 2, (top + bottom) / 2)
    draw.text(middle, text, fill=ink_on(colour), font=font, anchor="mm")


def _place_tag(
    box: Area, size: tuple[int, int], picture: tuple[int, int], taken: Sequence[Area]
) -> Area:
    left, top, right, bottom = box
    width, height = size
    corners = (
        (left, top - height),
        (left, top),
        (right - width, top - height),
        (right - width, top),
        (left, bottom),
        (left, bottom - height),
        (right - width, bottom - height),
    )
    places = [_moved_inside(corner, size, picture) for corner in corners]
    return next((place for place in places if not _overlaps_any(place, taken)), places[0])


def _moved_inside(corner: tuple[int, int], size: tuple[int, int], picture: tuple[int, int]) -> Area:
    left = min(max(corner[0], 0), max(picture[0] - size[0], 0))
    top = min(max(corner[1], 0), max(picture[1] - size[1], 0))
    return left, top, left + size[0], top + size[1]


def _overlaps_any(area: Area, taken: Sequence[Area]) -> bool:
    return any(
        area[0] < other[2] and other[0] < area[2] and area[1] < other[3] and other[1] < area[3]
        for other in taken
    )


# Class maps


def _draw_class_map(
    canvas: NDArray[np.uint8], spec: ModelSpec, result: Segmentation, options: AnswerOptions
) -> Image.Image:
    areas = [
        area
        for area in class_areas(result, options)
        if spec.class_names[area.class_id] != CLEAR_CLASS
    ]
    labels = result.label_map
    shown = np.zeros(256, dtype=bool)
    shown[[area.class_id for area in areas]] = True
    # a lookup per pixel would need four copies of a large picture at once: go row by row
    colours = class_colours().astype(np.float32) * _MAP_TINT
    for row in range(labels.shape[0]):
        inside = shown[labels[row]]
        mixed = canvas[row, inside] * np.float32(1.0 - _MAP_TINT) + colours[labels[row, inside]]
        canvas[row, inside] = np.rint(mixed).astype(np.uint8)
    _draw_borders(canvas, labels, shown)
    picture = Image.fromarray(canvas)
    rows = [
        PanelRow(
            text=spec.class_names[area.class_id],
            fraction=area.pixels / labels.size,
            swatch=class_colour(area.class_id),
        )
        for area in areas[:MAX_LEGEND_ROWS]
    ]
    _draw_panel(picture, rows, is_wide=False)
    return picture


def _draw_borders(
    canvas: NDArray[np.uint8], labels: NDArray[np.uint8], shown: NDArray[np.bool_]
) -> None:
    """Lighten the last pixels of every shown area towards another class."""
    thickness = max(1, round(_scale(*labels.shape) / 700))
    size = 2 * thickness + 1
    kernel = np.ones((size, size), dtype=np.uint8)
    border = cv2.dilate(labels, kernel) != cv2.erode(labels, kernel)
    border &= shown[labels]
    _tint(canvas, border, (255, 255, 255), 0.45)


# Panels


def _draw_caption(
    picture: Image.Image, spec: ModelSpec, result: Classification, options: AnswerOptions
) -> None:
    rows = [
        PanelRow(text=spec.class_names[item.class_id], fraction=item.score, swatch=None)
        for item in ranked_classes(result, options)
    ]
    _draw_panel(picture, rows, is_wide=True)


def _draw_panel(picture: Image.Image, rows: Sequence[PanelRow], *, is_wide: bool) -> None:
    """A translucent panel: wide along the lower edge, else a card in the upper left corner.

    It shows as many rows as fit into 45 % of the height of the picture; none when not even one
    does or no name has room.
    """
    width, height = picture.size
    font_size = _font_size(height, width)
    font = _font(font_size)
    pad = round(font_size * 0.7)
    line = round(font_size * 1.55)
    rows = rows[: max(0, (int(height * 0.45) - 2 * pad) // line)]
    percent = _text_size("100.0%", font)[0]
    name_room = width - 5 * pad - percent - font_size
    names = [_fit_text(row.text, font, name_room) for row in rows]
    if not rows or not all(names):
        return
    panel_height = len(rows) * line + 2 * pad
    if is_wide:
        area = (0, height - panel_height, width, height)
    else:
        longest = max(_text_size(name, font)[0] for name in names)
        area = (pad, pad, longest + percent + font_size + 5 * pad, pad + panel_height)
    draw = ImageDraw.Draw(picture, "RGBA")
    edges = (area[0], area[1], area[2] - 1, area[3] - 1)
    draw.rounded_rectangle(edges, radius=0 if is_wide else pad, fill=_PANEL_FILL)
    for number, (row, name) in enumerate(zip(rows, names, strict=True)):
        middle = area[1] + pad + number * line + line / 2
        span = (area[0] + pad, area[2] - pad)
        _draw_row(draw, replace(row, text=name), font, span=span, middle=middle)


def _draw_row(
    draw: ImageDraw.ImageDraw,
    row: PanelRow,
    font: Font,
    *,
    span: tuple[int, int],
    middle: float,
) -> None:
    """One line of a panel between the abscissae of `span`, centred at the ordinate `middle`."""
    left, right = span
    em = _text_size("", font)[1]
    percent = f"{row.fraction:.1%}"
    draw.text((right, middle), percent, fill=_PANEL_DIM_INK, font=font, anchor="rm")
    if row.swatch is not None:
        edge = round(em * 0.42)
        box = (left, round(middle) - edge, left + 2 * edge, round(middle) + edge)
        draw.rounded_rectangle(box, radius=max(1, edge // 3), fill=(*row.swatch, 255))
        left += round(em * 1.35)
        draw.text((left, middle), row.text, fill=_PANEL_INK, font=font, anchor="lm")
        return
    draw.text((left, middle), row.text, fill=_PANEL_INK, font=font, anchor="lm")
    track = (right - round((right - left) * 0.45), right - round(em * 4.2))
    if track[0] < left + font.getlength(row.text) + em or track[1] - track[0] < 2 * em:
        return
    thickness = max(1, round(em * 0.16))
    _draw_bar(draw, track, round(middle), thickness, row.fraction)


def _draw_bar(
    draw: ImageDraw.ImageDraw,
    track: tuple[int, int],
    middle: int,
    thickness: int,
    fraction: float,
) -> None:
    left, right = track
    top, bottom = middle - thickness, middle + thickness
    draw.rounded_rectangle((left, top, right, bottom), radius=thickness, fill=_TRACK_FILL)
    end = left + round((right - left) * min(max(fraction, 0.0), 1.0))
    if end - left >= 2 * thickness:
        draw.rounded_rectangle((left, top, end, bottom), radius=thickness, fill=_BAR_FILL)
