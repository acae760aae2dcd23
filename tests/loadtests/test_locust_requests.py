"""What Locust's users send is realistic, and each request knows its right answer."""

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence

import httpx
import numpy as np
import pytest

from loadtests.generator.payloads import Payload
from loadtests.locust_users.answers import Outcome, entry_name, judge
from loadtests.locust_users.options import SMALLEST_MEGAPIXELS
from loadtests.locust_users.pictures import Picture, make_pictures
from loadtests.locust_users.shots import JSON, PNG, TASKS, Deck, Shot, build_deck
from model.images import DecodeLimits, decode_rgb
from tests.service.processes import service_process

LIMITS = DecodeLimits(max_pixels=50_000_000, max_side=16_384)


@pytest.fixture(scope="module")
def pictures() -> tuple[Picture, ...]:
    return make_pictures()


@pytest.fixture(scope="module")
def deck(pictures: tuple[Picture, ...]) -> Deck:
    return build_deck(pictures)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with service_process() as service, httpx.Client(base_url=service.url, timeout=30) as client:
        yield client


def test_sizes_and_formats_are_those_of_strangers(pictures: tuple[Picture, ...]) -> None:
    sizes = sorted(picture.megapixels for picture in pictures)
    assert sizes[0] < 0.05
    assert np.median(sizes) == pytest.approx(0.5, rel=0.2)
    assert sizes[-1] == pytest.approx(12, rel=0.01)
    # log-normal: as many below half of the median as above the double
    assert sum(s < 0.25 for s in sizes) == pytest.approx(sum(s > 1 for s in sizes), abs=3)
    formats = Counter(picture.format for picture in pictures)
    assert formats["JPEG"] > len(pictures) / 2
    assert {"PNG", "WEBP", "GIF", "BMP", "TIFF"} < formats.keys()
    assert any(p.height > p.width for p in pictures)
    assert any(p.width > p.height for p in pictures)
    assert {p.orientation for p in pictures} == {1, 3, 6, 8}


def test_the_same_seed_makes_the_same_requests(deck: Deck, pictures: Sequence[Picture]) -> None:
    assert make_pictures(2) == make_pictures(2)
    assert build_deck(pictures) == deck


def test_turned_pictures_are_turned_upright(pictures: tuple[Picture, ...]) -> None:
    turned = next(p for p in pictures if p.orientation in (6, 8))
    upright = decode_rgb(turned.data, limits=LIMITS)
    assert upright.shape[:2] == (turned.width, turned.height)


def test_the_deck_holds_every_kind_of_request(deck: Deck) -> None:
    for task in TASKS:
        shots = deck.sensible[task]
        assert {shot.media_type for shot in shots} == {JSON, PNG}
        assert {shot.payload.images for shot in shots} >= {1, 2, 4}
        types = Counter(shot.payload.content_type.partition(";")[0] for shot in shots)
        assert types["image/jpeg"] > len(shots) / 3
        assert {
            "multipart/form-data",
            "application/json",
            "image/png",
            "image/webp",
        } <= types.keys()
        assert 0 < sum(shot.headers.get("X-Priority") == "high" for shot in shots) < 30
    targets = " ".join(shot.payload.target for shots in deck.sensible.values() for shot in shots)
    assert all(
        part in targets for part in ("top_k=3", "masks=polygon", "/hf/segment", "format=coco")
    )


def test_the_smallest_limit_of_size_leaves_requests(pictures: Sequence[Picture]) -> None:
    small = build_deck([p for p in pictures if p.megapixels <= SMALLEST_MEGAPIXELS])
    assert all(small.sensible[task] and small.mistakes[task] for task in TASKS)


def test_tasks_and_mistakes_come_in_the_wanted_shares(deck: Deck) -> None:
    rng = random.Random(0)  # noqa: S311
    shots = [deck.draw(rng, {"classify": 3, "detect": 1}, 0.1) for _ in range(4000)]
    tasks = Counter(shot.task for shot in shots)
    assert tasks["classify"] == pytest.approx(3000, abs=150)
    assert tasks["detect"] == 4000 - tasks["classify"]
    assert sum(shot.is_mistake for shot in shots) == pytest.approx(400, abs=80)


@pytest.mark.parametrize("task", TASKS)
def test_the_service_gives_every_mistake_its_right_answer(
    task: str, deck: Deck, client: httpx.Client
) -> None:
    for shot in deck.mistakes[task]:
        verdict = fire(client, shot)
        assert verdict == (Outcome.MISTAKE, ""), shot.payload.target
    assert {shot.status for shot in deck.mistakes[task]} == {400, 404, 413, 415, 422}


@pytest.mark.parametrize("task", TASKS)
def test_the_service_answers_what_is_sensible(task: str, deck: Deck, client: httpx.Client) -> None:
    small = [shot for shot in deck.sensible[task] if len(shot.payload.body) < 300_000]
    assert len(small) > 40
    # every form and every query once
    kinds = {
        (
            shot.payload.target,
            shot.payload.content_type,
            shot.media_type,
            shot.payload.images > 1,
        ): shot
        for shot in small
    }
    for shot in kinds.values():
        assert fire(client, shot) == (Outcome.OK, ""), shot.payload.target


def fire(client: httpx.Client, shot: Shot) -> tuple[Outcome, str]:
    headers = {"Content-Type": shot.payload.content_type, **shot.headers}
    response = client.post(shot.payload.target, content=shot.payload.body, headers=headers)
    media_type = response.headers["content-type"].partition(";")[0]
    verdict = judge(shot, response.status_code, media_type, response.content)
    return verdict.outcome, verdict.reason


GOOD = Shot("classify", Payload("/classify", "image/jpeg", b"", 1))
TWO = Shot("classify", Payload("/classify", "multipart/form-data", b"", 2))
WRONG = Shot(
    "detect", Payload("/detect", "image/png", b"", 0), {},
    413, "image_too_large", "application/problem+json",
)  # fmt: skip


def problem(status: int, code: str) -> bytes:
    return json.dumps({"status": status, "code": code}).encode()


@pytest.mark.parametrize(
    ("shot", "status", "media_type", "content", "outcome", "reason"),
    [
        (GOOD, 200, JSON, b"{}", Outcome.OK, ""),
        (GOOD, 200, JSON, b"", Outcome.FAILED, "an empty answer"),
        (GOOD, 200, PNG, b"x", Outcome.FAILED, "image/png, not application/json"),
        (GOOD, 0, "", b"", Outcome.FAILED, "status 0, expected 200"),
        (GOOD, 500, JSON, problem(500, "internal"), Outcome.FAILED,
         "status 500 internal, expected 200"),
        (GOOD, 429, JSON, problem(429, "queue_full"), Outcome.REFUSED, "status 429"),
        (GOOD, 503, "text/html", b"<html>", Outcome.REFUSED, "status 503"),
        (WRONG, 413, WRONG.media_type, problem(413, "image_too_large"), Outcome.MISTAKE, ""),
        (WRONG, 413, WRONG.media_type, problem(413, "body_too_large"), Outcome.FAILED,
         "status 413 body_too_large, expected 413 image_too_large"),
        (WRONG, 413, "text/html", b"<html>too large", Outcome.FAILED,
         "status 413, expected 413 image_too_large"),
        (WRONG, 200, JSON, b"{}", Outcome.FAILED, "status 200, expected 413 image_too_large"),
        (WRONG, 429, JSON, b"", Outcome.REFUSED, "status 429"),
        (TWO, 200, JSON, b'[{"model": {}}, []]', Outcome.OK, ""),
        (TWO, 200, JSON, b"[{}]", Outcome.FAILED, "not one answer a picture"),
        (TWO, 200, JSON, b'[{}, {"status": 429}]', Outcome.REFUSED, "status 429 of a picture"),
        (TWO, 200, JSON, b'[{}, {"status": 500, "code": "internal"}]', Outcome.FAILED,
         "a picture with 500 internal"),
    ],
)  # fmt: skip
def test_an_answer_is_right_only_with_status_and_code(
    shot: Shot, status: int, media_type: str, content: bytes, outcome: Outcome, reason: str
) -> None:
    verdict = judge(shot, status, media_type, content)
    assert (verdict.outcome, verdict.reason) == (outcome, reason)


def test_what_did_not_go_well_has_entries_of_its_own() -> None:
    names = [entry_name("detect", outcome) for outcome in Outcome]
    assert names == ["/detect", "/detect mistake", "/detect refused", "/detect failed"]
