"""Answers with format=coco as pycocotools takes them: from several requests to AP."""

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from model.vocabulary import category_ids
from tests.service.pictures import photo
from tests.service.processes import service_process

SIZES = {11: (320, 240), 7: (200, 300), 39: (128, 96)}
NAMES = ("dark", "red", "green", "blue", "light")


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with (
        service_process(log__level="warning") as service,
        httpx.Client(base_url=service.url, timeout=30) as own,
    ):
        yield own


@pytest.fixture(scope="module")
def entries(client: httpx.Client) -> list[dict[str, Any]]:
    """A results file: two pictures of one request, and one of another."""
    first, second, third = SIZES
    pictures = {number: photo(*size, seed=number) for number, size in SIZES.items()}
    several = client.post(
        "/detect",
        params={"format": "coco", "image_ids": f"{first},{second}"},
        files=[("image", pictures[first]), ("image", pictures[second])],
    )
    alone = client.post(
        "/detect", params={"format": "coco", "image_ids": third}, content=pictures[third]
    )
    assert several.status_code == alone.status_code == 200
    return [entry for answer in (*several.json(), alone.json()) for entry in answer]


def truth(entries: list[dict[str, Any]], *, shift: int = 0) -> dict[str, Any]:
    """Annotations that are the entries themselves, moved to the right."""
    annotations = []
    for number, entry in enumerate(entries, 1):
        left, top, width, height = entry["bbox"]
        mask = coco_mask.decode(entry["segmentation"])
        moved = mask.copy()
        if shift:
            moved[:, shift:], moved[:, :shift] = mask[:, :-shift], 0
        encoded = coco_mask.encode(np.asfortranarray(moved))
        annotations.append(
            {
                "id": number,
                "image_id": entry["image_id"],
                "category_id": entry["category_id"],
                "bbox": [left + shift, top, width, height],
                "area": float(coco_mask.area(encoded)),
                "segmentation": {**encoded, "counts": encoded["counts"].decode()},
                "iscrowd": 0,
            }
        )
    return {
        "info": {},
        "images": [
            {"id": number, "width": width, "height": height}
            for number, (width, height) in SIZES.items()
        ],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(category_ids(NAMES), NAMES, strict=True)
        ],
    }


def average_precision(ground: dict[str, Any], results: Path, kind: str) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = ground
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(str(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_answers_are_a_results_file(
    entries: list[dict[str, Any]], kind: str, tmp_path: Path
) -> None:
    results = tmp_path / "results.json"
    results.write_text(json.dumps(entries))
    assert {entry["image_id"] for entry in entries} == set(SIZES)
    assert average_precision(truth(entries), results, kind) == pytest.approx(1.0)
    shifted = average_precision(truth(entries, shift=12), results, kind)
    assert 0.0 < shifted < 0.9


def test_a_label_map_is_a_results_file(client: httpx.Client, tmp_path: Path) -> None:
    picture = photo(64, 48)
    response = client.post("/segment", params={"format": "coco", "image_ids": 7}, content=picture)
    entries = response.json()
    assert {entry["image_id"] for entry in entries} == {7}
    results = tmp_path / "results.json"
    results.write_text(json.dumps(entries))
    coco = COCO()
    coco.dataset = {"info": {}, **truth([]), "images": [{"id": 7, "width": 64, "height": 48}]}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        loaded = coco.loadRes(str(results))
    assert sum(one["area"] for one in loaded.dataset["annotations"]) == 64 * 48


def test_without_ids_there_are_none(client: httpx.Client) -> None:
    entries = client.post("/detect", params={"format": "coco"}, content=photo()).json()
    assert entries
    assert not any("image_id" in entry for entry in entries)


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        ({"image_ids": "1,2", "format": "coco"}, "2 image_ids for 1 pictures"),
        ({"image_ids": "a", "format": "coco"}, "image_ids"),
        ({"image_ids": "", "format": "coco"}, "image_ids"),
        ({"image_ids": "1"}, "format=coco"),
    ],
)
def test_ids_that_fit_nothing(
    client: httpx.Client, parameters: dict[str, str], wanted: str
) -> None:
    response = client.post("/detect", params=parameters, content=photo())
    assert response.status_code == 422
    assert wanted in response.json()["detail"]
