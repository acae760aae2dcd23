"""How the page reacts to answers, problems and hands; the answers are made here."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import FilePayload, Page, Request, Route, expect
from pycocotools import mask as coco_mask

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
WIDTH, HEIGHT = 320, 200
BOXES = ((10, 20, 150, 180), (160, 40, 300, 160), (180, 60, 220, 100))
SCORES = (0.91, 0.62, 0.23)
LABELS = ("<img src=x onerror=alert(1)>", "cat", "dog")


def detection_answer() -> dict[str, Any]:
    """Three objects; each mask fills the left half of its box."""
    predictions = []
    for index, (left, top, right, bottom) in enumerate(BOXES):
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
        mask[top:bottom, left : (left + right) // 2] = 1
        counts = coco_mask.encode(mask)["counts"].decode()
        predictions.append(
            {
                "label": LABELS[index],
                "class_id": index,
                "score": SCORES[index],
                "box": {"xmin": left, "ymin": top, "xmax": right, "ymax": bottom},
                "mask": {"size": [HEIGHT, WIDTH], "counts": counts},
            }
        )
    return {
        "model": {"name": "canned", "demo": False},
        "image": {"width": WIDTH, "height": HEIGHT},
        "predictions": predictions,
        "timings": {"decode": 1.5, "infer": 20.25},
    }


def classification_answer(label: str) -> dict[str, Any]:
    return {
        "model": {"name": "canned", "demo": False},
        "image": {"width": WIDTH, "height": HEIGHT},
        "predictions": [{"label": label, "class_id": 0, "score": 0.75}],
        "timings": {"infer": 3.0},
    }


class Answers:
    """Stands between the page and the task routes.

    Attributes:
        requests: those that arrived.
        reply: answers one of them; may be exchanged at any time.
    """

    def __init__(self, page: Page) -> None:
        self.requests: list[Request] = []
        self.reply: Callable[[Route], None] = lambda route: route.fulfill(json=detection_answer())
        for task in ("classify", "detect", "segment"):
            page.route(f"**/{task}*", self._answer)

    def _answer(self, route: Route) -> None:
        if route.request.method != "POST":
            route.continue_()
            return
        self.requests.append(route.request)
        self.reply(route)


def pick(page: Page, picture: bytes) -> None:
    file = FilePayload(name="photo.jpg", mimeType="image/jpeg", buffer=picture)
    page.set_input_files("#file", file)


@pytest.fixture
def detection(open_page: OpenPage, photograph: bytes) -> tuple[Page, Answers]:
    """A page that shows the three objects."""
    page = open_page()
    answers = Answers(page)
    page.locator("input[value=detect]").check()
    pick(page, photograph)
    expect(page.locator("#threshold")).to_be_visible()
    return page, answers


def overlay_alpha(page: Page, x: int, y: int) -> int:
    """Opacity of the overlay at the centre of a pixel of the picture, 0..255."""
    return int(
        page.evaluate(
            """([x, y]) => {
              const canvas = document.querySelector("#overlay");
              const [column, row] = [x * canvas.width, y * canvas.height].map(Math.floor);
              const probe = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
              probe.drawImage(canvas, -column, -row);
              return probe.getImageData(0, 0, 1, 1).data[3];
            }""",
            [(x + 0.5) / WIDTH, (y + 0.5) / HEIGHT],
        )
    )


def test_threshold_filters_without_a_new_request(detection: tuple[Page, Answers]) -> None:
    page, answers = detection
    for threshold, count in (("0.5", 2), ("0.95", 0), ("0.62", 2), ("0.63", 1), ("0.05", 3)):
        page.locator("#threshold").fill(threshold)
        assert page.locator("#boxes g").count() == count
        assert page.locator("#tags .tag").count() == count
        assert page.locator(".items button").count() == count
    assert len(answers.requests) == 1
    assert "threshold=0.05" in answers.requests[0].url
    page.locator("#threshold").fill("0.95")
    assert "3 objects below" in page.inner_text("#summary")


def test_masks_are_painted_where_they_are(detection: tuple[Page, Answers]) -> None:
    page, _ = detection
    inside, outside = (40, 100), (120, 100)
    assert overlay_alpha(page, *inside) == pytest.approx(0.42 * 255, abs=2)
    assert overlay_alpha(page, *outside) == 0
    page.get_by_label("Show masks").uncheck()
    assert overlay_alpha(page, *inside) == 0


def test_pointer_and_focus_highlight_one_object(detection: tuple[Page, Answers]) -> None:
    page, _ = detection
    page.locator("#threshold").fill("0.05")
    dimmed = page.locator("#boxes g.dimmed")
    page.locator(".items button").nth(1).hover()
    assert dimmed.count() == 2
    frame = page.locator("#stage").bounding_box()
    assert frame is not None
    # inside two boxes: the smaller one is meant
    scale = frame["width"] / WIDTH
    page.mouse.move(frame["x"] + 200 * scale, frame["y"] + 80 * scale)
    expect(page.locator(".items button.active")).to_contain_text("dog")
    page.mouse.move(frame["x"] + 155 * scale, frame["y"] + 5 * scale)
    assert dimmed.count() == 0
    page.locator(".items button").nth(0).focus()
    assert dimmed.count() == 2
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.locator("#threshold").focus()
    assert dimmed.count() == 2, "a chosen object stays highlighted"


def test_names_from_the_answer_never_become_markup(detection: tuple[Page, Answers]) -> None:
    page, _ = detection
    assert LABELS[0] in page.inner_text(".items")
    assert page.locator(".items img, #tags img, #json img").count() == 0


def test_masks_are_shortened_in_the_shown_json(open_page: OpenPage, photograph: bytes) -> None:
    page = open_page()
    answers = Answers(page)
    answer = detection_answer()
    answer["note"] = "x" * 5000
    answers.reply = lambda route: route.fulfill(json=answer)
    page.locator("input[value=detect]").check()
    pick(page, photograph)
    page.locator("#json-card summary").click()
    assert "5000 characters" in page.inner_text("#json")
    assert "x" * 100 not in page.inner_text("#json")


def problem(status: int, **facts: object) -> Callable[[Route], None]:
    body = {"type": "about:blank", "status": status, "request_id": "req-7", **facts}
    headers = {"Content-Type": "application/problem+json"}
    if "retry_after_s" in facts:
        headers["Retry-After"] = str(facts["retry_after_s"])
    return lambda route: route.fulfill(status=status, headers=headers, body=json.dumps(body))


def test_busy_server_says_when_to_come_back(
    open_page: OpenPage, watch: Any, photograph: bytes
) -> None:
    watch.expected = ("429",)
    page = open_page()
    answers = Answers(page)
    answers.reply = problem(
        429, title="Queue full", detail="128 waiting", code="queue_full", retry_after_s=30
    )
    pick(page, photograph)
    alert = page.get_by_role("alert")
    for text in ("Queue full", "128 waiting", "Wait a moment", "code queue_full", "request req-7"):
        expect(alert).to_contain_text(text)
    expect(alert).to_contain_text("Try again (in 29 s)")
    answers.reply = lambda route: route.fulfill(json=classification_answer("cat"))
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".bars li")).to_have_count(1)
    expect(alert).to_be_hidden()


def test_lost_connection_is_explained(open_page: OpenPage, watch: Any, photograph: bytes) -> None:
    watch.expected = ("ERR_CONNECTION_REFUSED",)
    page = open_page()
    answers = Answers(page)
    answers.reply = lambda route: route.abort("connectionrefused")
    pick(page, photograph)
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached")
    expect(page.get_by_role("alert")).to_contain_text("Check that the server is running")


def test_answer_that_is_not_understood_is_explained(open_page: OpenPage, photograph: bytes) -> None:
    page = open_page()
    answers = Answers(page)
    broken = detection_answer()
    broken["predictions"][0]["mask"]["counts"] = "1"
    answers.reply = lambda route: route.fulfill(json=broken)
    page.locator("input[value=detect]").check()
    pick(page, photograph)
    expect(page.get_by_role("alert")).to_contain_text("cannot be shown")


def test_newer_request_replaces_the_one_in_flight(open_page: OpenPage, photograph: bytes) -> None:
    page = open_page()
    answers = Answers(page)
    waiting: list[Route] = []
    answers.reply = waiting.append
    failed: list[str] = []
    page.on("requestfailed", lambda request: failed.append(request.failure or ""))
    with page.expect_request("**/classify*"):
        pick(page, photograph)
    expect(page.locator("#cancel")).to_be_visible()
    answers.reply = lambda route: route.fulfill(json=detection_answer())
    page.locator("input[value=detect]").check()
    expect(page.locator("#boxes g")).to_have_count(2)
    assert failed == ["net::ERR_ABORTED"]
    assert len(waiting) == 1
    expect(page.locator("#cancel")).to_be_hidden()
    expect(page.get_by_role("alert")).to_be_hidden()


@pytest.mark.parametrize("how", ["button", "escape"])
def test_request_can_be_cancelled(open_page: OpenPage, photograph: bytes, how: str) -> None:
    page = open_page()
    answers = Answers(page)
    answers.reply = lambda route: None
    pick(page, photograph)
    cancel = page.locator("#cancel")
    expect(cancel).to_be_visible()
    if how == "button":
        cancel.click()
    else:
        page.keyboard.press("Escape")
    expect(page.locator("#summary")).to_have_text("Cancelled.")
    expect(cancel).to_be_hidden()
    expect(page.get_by_role("alert")).to_be_hidden()
    answers.reply = lambda route: route.fulfill(json=classification_answer("cat"))
    page.locator("#run").click()
    expect(page.locator(".bars li")).to_have_count(1)


def test_server_with_keys_asks_for_one(open_page: OpenPage, watch: Any, photograph: bytes) -> None:
    watch.expected = ("401",)
    page = open_page()
    answers = Answers(page)
    answers.reply = problem(401, title="Key missing", detail="no API key", code="unauthorized")
    pick(page, photograph)
    expect(page.locator("#key-form")).to_be_visible()
    answers.reply = lambda route: route.fulfill(json=classification_answer("cat"))
    page.get_by_label("API key").fill("secret-key-1")
    page.get_by_role("button", name="Use key").click()
    expect(page.locator(".bars li")).to_have_count(1)
    assert answers.requests[-1].headers["x-api-key"] == "secret-key-1"
    assert "$API_KEY" in page.inner_text("#curl")
    assert "secret-key-1" not in page.content()


def test_task_already_answered_is_not_asked_again(open_page: OpenPage, photograph: bytes) -> None:
    page = open_page()
    answers = Answers(page)
    answers.reply = lambda route: route.fulfill(
        json=detection_answer() if "detect" in route.request.url else classification_answer("cat")
    )
    pick(page, photograph)
    expect(page.locator(".bars li")).to_have_count(1)
    page.locator("input[value=detect]").check()
    expect(page.locator("#boxes g")).to_have_count(2)
    page.locator("input[value=classify]").check()
    expect(page.locator(".bars li")).to_have_count(1)
    expect(page.locator("#boxes g")).to_have_count(0)
    assert len(answers.requests) == 2
    page.locator("#run").click()
    expect(page.locator("#json-card")).to_be_visible()
    assert len(answers.requests) == 3


def test_model_can_be_chosen(open_page: OpenPage, photograph: bytes) -> None:
    page = open_page()
    listed = [
        {"name": "one", "task": "classify", "default": False, "demo": False},
        {"name": "two", "task": "classify", "default": True, "demo": True},
        {"name": "three", "task": "detect", "default": True, "demo": False},
    ]
    page.route("**/models", lambda route: route.fulfill(json={"models": listed}))
    answers = Answers(page)
    answers.reply = lambda route: route.fulfill(json=classification_answer("cat"))
    page.reload()
    choice = page.get_by_label("Model")
    expect(choice).to_have_value("two")
    expect(page.locator("#demo-banner")).to_be_visible()
    assert page.locator("input[value=segment]").is_disabled()
    pick(page, photograph)
    expect(page.locator(".bars li")).to_have_count(1)
    assert "model=" not in answers.requests[-1].url
    choice.select_option("one")
    expect(page.locator(".bars li")).to_have_count(1)
    assert "model=one" in answers.requests[-1].url
    expect(page.locator("#demo-banner")).to_be_hidden()
