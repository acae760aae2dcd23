"""JSON forms of the results: native, COCO results, Hugging Face lists. Plain JSON types only."""

import difflib
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from model.config import ModelSpec
from model.results import Classification, Detections, Result, Rle, Segmentation
from model.vocabulary import category_ids

MaskForm = Literal["rle", "polygon", "png", "none"]
AnswerFormat = Literal["native", "coco", "hf"]
Answer = dict[str, Any] | list[dict[str, Any]]

# float32 has about seven digits: more would be noise, fewer would move boxes
_SCORE_DIGITS = 6
_PIXEL_DIGITS = 3
_MILLISECOND_DIGITS = 3
# of PNGs: a row of few areas is that above it, and the rest runs of one value. Quicker than the
# usual filter and a search for repetitions, and fewer bytes.
_FLAT_AREAS = (
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
)


class UnsupportedFormatError(ValueError):
    """The chosen format has no form for this task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """What the client wants to see of a result.

    Attributes:
        top_k: classify: this many classes, best first.
        threshold: classify, detect: only scores of at least this, 0..1; None: all.
            Classes of a segmentation have no score, so it leaves them alone.
        class_ids: only these classes; None: all. A label map is never filtered.
        masks: detect: form of the instance masks. segment: `none` leaves out the label map.
        format: native answer, COCO results list, or the list of the Hugging Face clients.
    """

    top_k: int = 5
    threshold: float | None = None
    class_ids: frozenset[int] | None = None
    masks: MaskForm = "rle"
    format: AnswerFormat = "native"


@dataclass(frozen=True, slots=True)
class RankedClass:
    """One class of a classification."""

    class_id: int
    score: float


@dataclass(frozen=True, slots=True)
class ClassArea:
    """One class that is present in a label map; `pixels` > 0."""

    class_id: int
    pixels: int


def build_answer(
    spec: ModelSpec,
    result: Result,
    options: AnswerOptions,
    *,
    height: int,
    width: int,
    timings_ms: Mapping[str, float],
    image_id: int | None = None,
) -> Answer:
    """The body that answers one image.

    Args:
        spec: the model that made `result`.
        result: of the upright original image.
        options: filters and form.
        height: of the upright original image, pixels.
        width: of the upright original image, pixels.
        timings_ms: stage -> milliseconds; only in the native form.
        image_id: of each entry; only in the COCO form.

    Returns:
        A dict (native) or a list (coco, hf), ready for `orjson.dumps`.

    Raises:
        UnsupportedFormatError: COCO results of a classification do not exist.
    """
    if options.format == "coco":
        entries = _coco_results(spec, result, options)
        return entries if image_id is None else [{"image_id": image_id, **one} for one in entries]
    if options.format == "hf":
        return _hf_list(spec, result, options)
    answer: dict[str, Any] = {
        "model": {"name": spec.name, "demo": spec.demo},
        "image": {"width": int(width), "height": int(height)},
        "predictions": _native_predictions(spec, result, options),
    }
    if isinstance(result, Segmentation) and options.masks != "none":
        answer["label_map"] = b64encode(label_map_png(result)).decode("ascii")
    answer["timings"] = {
        stage: round(float(ms), _MILLISECOND_DIGITS) for stage, ms in timings_ms.items()
    }
    return answer


def parse_class_filter(text: str, spec: ModelSpec) -> frozenset[int]:
    """Class ids of a comma-separated list of names and ids, e.g. `person,dog,17`.

    Names compare without regard to case, unless one fits exactly. A class whose name is a number
    is found by its name first. Names that contain a comma can only be given as ids.

    Raises:
        ValueError: unknown names (with the closest ones) or ids outside the class list; nothing
            named at all.
    """
    exact = {name: number for number, name in enumerate(spec.class_names)}
    ids_by_name = {name.casefold(): number for name, number in exact.items()}
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    if not wanted:
        raise ValueError("the class filter names no class")
    found: set[int] = set()
    unknown: list[str] = []
    for word in wanted:
        number = exact.get(word, ids_by_name.get(word.casefold()))
        if number is None and word.isascii() and word.isdigit() and len(word) <= 9:
            number = int(word) if int(word) < spec.num_classes else None
        if number is None:
            unknown.append(_unknown_class(word, spec, ids_by_name))
        else:
            found.add(number)
    if unknown:
        raise ValueError("; ".join(unknown))
    return frozenset(found)


def _unknown_class(word: str, spec: ModelSpec, ids_by_name: Mapping[str, int]) -> str:
    # a client's text goes into a message: keep it short
    shown = word if len(word) <= 60 else word[:57] + "..."
    if word.isascii() and word.isdigit():
        return f"unknown class id {shown}, {spec.name} has 0..{spec.num_classes - 1}"
    close = difflib.get_close_matches(word.casefold()[:60], list(ids_by_name), n=3)
    names = ", ".join(spec.class_names[ids_by_name[name]] for name in close)
    hint = f", close to: {names}" if names else ""
    return f"unknown class {shown!r} for {spec.name}{hint}"


def ranked_classes(result: Classification, options: AnswerOptions) -> list[RankedClass]:
    """The best classes that pass the filters, by falling score, ties by class id."""
    scores = result.probabilities
    ids = np.arange(scores.size)
    if options.class_ids is not None:
        ids = ids[np.isin(ids, list(options.class_ids))]
    if options.threshold is not None:
        ids = ids[scores[ids] >= options.threshold]
    if ids.size > options.top_k:
        # the last one that may be named, and its equals: sorting all classes would cost far more
        falling = -scores[ids]
        ids = ids[falling <= np.partition(falling, options.top_k - 1)[options.top_k - 1]]
    best = ids[np.argsort(-scores[ids], kind="stable")][: options.top_k]
    return [RankedClass(int(number), float(scores[number])) for number in best]


def kept_detections(result: Detections, options: AnswerOptions) -> list[int]:
    """Indices of the objects that pass the filters, in the order of `result`."""
    pairs = zip(result.class_ids.tolist(), result.scores.tolist(), strict=True)
    return [
        index
        for index, (class_id, score) in enumerate(pairs)
        if _is_wanted(class_id, score, options)
    ]


def class_areas(result: Segmentation, options: AnswerOptions) -> list[ClassArea]:
    """The classes present that pass the filter, by falling area, ties by class id."""
    pixels = class_pixels(result.label_map)
    present = [
        ClassArea(int(number), int(pixels[number]))
        for number in np.flatnonzero(pixels)
        if _is_wanted(int(number), None, options)
    ]
    return sorted(present, key=lambda area: (-area.pixels, area.class_id))


def class_pixels(label_map: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(256,) how many pixels have each value.

    By runs of equal pixels, of which a class map has few: counting pixel by pixel takes far longer.
    """
    flat = label_map.ravel()
    lasts = np.append(np.flatnonzero(flat[1:] != flat[:-1]), flat.size - 1)
    lengths = np.diff(lasts, prepend=-1)
    return np.bincount(flat[lasts], weights=lengths, minlength=256).astype(np.int64)


def _is_wanted(class_id: int, score: float | None, options: AnswerOptions) -> bool:
    if options.class_ids is not None and class_id not in options.class_ids:
        return False
    return score is None or options.threshold is None or score >= options.threshold


def label_map_png(result: Segmentation) -> bytes:
    """8-bit grey PNG of the size of the image; the value of a pixel is its class id."""
    return _grey_png(result.label_map)


def _grey_png(pixels: NDArray[np.uint8]) -> bytes:
    done, encoded = cv2.imencode(".png", pixels, _FLAT_AREAS)
    if not done:
        raise ValueError(f"cannot write a PNG of shape {pixels.shape}")
    return bytes(encoded.tobytes())


def decode_mask(mask: Rle) -> NDArray[np.uint8]:
    """(H, W) uint8, 1 inside. Column-major in memory."""
    decoded: NDArray[np.uint8] = coco_mask.decode(_coco_rle(mask))
    return decoded


def mask_region(mask: Rle) -> tuple[int, int, NDArray[np.uint8]]:
    """The part of a mask that is not empty.

    Returns:
        x and y of its upper left pixel, and (h, w) uint8, contiguous, 1 inside; (0, 0) when the
        whole mask is empty.
    """
    x, y, width, height = (int(value) for value in coco_mask.toBbox(_coco_rle(mask)))
    return x, y, np.ascontiguousarray(decode_mask(mask)[y : y + height, x : x + width])


def mask_polygons(mask: Rle) -> list[list[float]]:
    """Outlines of a mask, `[x1, y1, x2, y2, ...]` each, in pixels of the image.

    Vertices lie a quarter of a pixel inside the edge of the mask, so filling the outlines covers
    exactly the centres of its pixels; also lines and dots have an area. Only outer outlines:
    **holes cannot be represented** in this form and come out filled; take the run lengths where
    they matter.
    """
    x, y, region = mask_region(mask)
    if region.size == 0:
        return []
    # contours pass through pixel centres: at twice the resolution these are quarter pixels, and
    # a line one pixel thin has an inside
    doubled = region.repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    corner = np.array([x, y])
    return [((contour.reshape(-1, 2) + 0.5) / 2 + corner).ravel().tolist() for contour in contours]


def _coco_rle(mask: Rle) -> dict[str, Any]:
    return {"size": [mask.height, mask.width], "counts": mask.counts.encode("ascii")}


def _rle_json(mask: Rle) -> dict[str, Any]:
    return {"size": [int(mask.height), int(mask.width)], "counts": mask.counts}


def _mask_json(mask: Rle, form: MaskForm) -> dict[str, Any]:
    if form == "polygon":
        return {"size": [int(mask.height), int(mask.width)], "polygons": mask_polygons(mask)}
    if form == "png":
        png = _grey_png(np.ascontiguousarray(decode_mask(mask)) * np.uint8(255))
        size = [int(mask.height), int(mask.width)]
        return {"size": size, "png": b64encode(png).decode("ascii")}
    return _rle_json(mask)


def _native_predictions(
    spec: ModelSpec, result: Result, options: AnswerOptions
) -> list[dict[str, Any]]:
    if isinstance(result, Classification):
        return [
            {**_named(spec, item.class_id), "score": round(item.score, _SCORE_DIGITS)}
            for item in ranked_classes(result, options)
        ]
    if isinstance(result, Segmentation):
        total = result.label_map.size
        return [
            {
                **_named(spec, area.class_id),
                "pixels": area.pixels,
                "fraction": round(area.pixels / total, _SCORE_DIGITS),
            }
            for area in class_areas(result, options)
        ]
    return list(_native_objects(spec, result, options))


def _native_objects(
    spec: ModelSpec, result: Detections, options: AnswerOptions
) -> Iterator[dict[str, Any]]:
    for index in kept_detections(result, options):
        edges = (round(float(edge), _PIXEL_DIGITS) for edge in result.boxes[index])
        found = {
            **_named(spec, int(result.class_ids[index])),
            "score": round(float(result.scores[index]), _SCORE_DIGITS),
            "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True)),
        }
        if result.masks is not None and options.masks != "none":
            found["mask"] = _mask_json(result.masks[index], options.masks)
        yield found


def _named(spec: ModelSpec, class_id: int) -> dict[str, Any]:
    return {"label": spec.class_names[class_id], "class_id": class_id}


def _hf_list(spec: ModelSpec, result: Result, options: AnswerOptions) -> list[dict[str, Any]]:
    if isinstance(result, Classification):
        return [
            {
                "label": spec.class_names[item.class_id],
                "score": round(item.score, _SCORE_DIGITS),
            }
            for item in ranked_classes(result, options)
        ]
    if isinstance(result, Segmentation):
        return [
            {
                "label": spec.class_names[area.class_id],
                "mask": b64encode(_class_png(result, area.class_id)).decode("ascii"),
                "score": None,
            }
            for area in class_areas(result, options)
        ]
    # these clients declare integer boxes and no masks
    objects = _native_objects(spec, result, replace(options, masks="none"))
    return [
        {
            "label": found["label"],
            "score": found["score"],
            "box": {edge: round(value) for edge, value in found["box"].items()},
        }
        for found in objects
    ]


def _class_png(result: Segmentation, class_id: int) -> bytes:
    return _grey_png((result.label_map == class_id).astype(np.uint8) * np.uint8(255))


def _coco_results(spec: ModelSpec, result: Result, options: AnswerOptions) -> list[dict[str, Any]]:
    """Entries of a COCO results file, but for `image_id`, which only the client knows."""
    numbers = category_ids(spec.class_names)
    if isinstance(result, Classification):
        raise UnsupportedFormatError(
            "COCO results have no form for a classification, expected format native or hf"
        )
    if isinstance(result, Segmentation):
        return [
            {
                "category_id": numbers[area.class_id],
                "segmentation": _class_rle(result, area.class_id),
            }
            for area in class_areas(result, options)
        ]
    entries: list[dict[str, Any]] = []
    for index in kept_detections(result, options):
        left, top, right, bottom = (float(edge) for edge in result.boxes[index])
        entry: dict[str, Any] = {
            "category_id": numbers[int(result.class_ids[index])],
            "bbox": [
                round(value, _PIXEL_DIGITS) for value in (left, top, right - left, bottom - top)
            ],
            "score": round(float(result.scores[index]), _SCORE_DIGITS),
        }
        # the COCO tools read run lengths only, whatever form the native answer would have
        if result.masks is not None and options.masks != "none":
            entry["segmentation"] = _rle_json(result.masks[index])
        entries.append(entry)
    return entries


def _class_rle(result: Segmentation, class_id: int) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(result.label_map == class_id, dtype=np.uint8))
    return {
        "size": [int(side) for side in encoded["size"]],
        "counts": encoded["counts"].decode("ascii"),
    }
