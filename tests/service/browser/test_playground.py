"""The playground with the real service: every task, every way to bring a picture."""

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect

from service.palette import class_colours

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
TASKS = ("classify", "detect", "segment")
QUERIES = {"classify": "top_k=8", "detect": "threshold=0.05", "segment": ""}


def ask(base_url: str, task: str, picture: bytes) -> Any:
    """What the service answers to the request that the page makes."""
    url = f"{base_url}{task}?{QUERIES[task]}"
    response = httpx.post(url, content=picture, timeout=60, trust_env=False)
    return response.raise_for_status().json()


def pick(page: Page, picture: bytes, name: str = "photo.jpg", kind: str = "image/jpeg") -> None:
    page.set_input_files("#file", FilePayload(name=name, mimeType=kind, buffer=picture))


def choose_task(page: Page, task: str) -> None:
    page.locator(f"input[value={task}]").check()


def wait_for_answer(page: Page) -> None:
    expect(page.locator("#json-card")).to_be_visible()
    expect(page.locator("#progress")).to_be_hidden()


def canvas_pixels(page: Page, selector: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(rows, columns, 4) RGBA of a canvas."""
    url = page.evaluate(f"document.querySelector('{selector}').toDataURL()")
    return np.asarray(Image.open(BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGBA"))


def test_classify_shows_the_best_labels(
    open_page: OpenPage, base_url: str, photograph: bytes
) -> None:
    page = open_page()
    pick(page, photograph)
    wait_for_answer(page)
    expected = ask(base_url, "classify", photograph)["predictions"]
    shown = page.locator(".bars li .line span:first-child").all_inner_texts()
    assert shown == [item["label"] for item in expected]
    percent = f"{expected[0]['score'] * 100:.1f} %"
    expect(page.locator(".bars li").first).to_contain_text(percent)
    assert expected[0]["label"] in page.inner_text("#summary")


def test_detect_draws_every_object_above_the_threshold(
    open_page: OpenPage, base_url: str, photograph: bytes
) -> None:
    page = open_page()
    choose_task(page, "detect")
    pick(page, photograph)
    wait_for_answer(page)
    expected = ask(base_url, "detect", photograph)["predictions"]
    page.locator("#threshold").fill("0.05")
    assert page.locator("#boxes g").count() == len(expected)
    assert page.locator(".items button").count() == len(expected)
    assert page.locator("#tags .tag").count() == len(expected)
    if expected:
        best = expected[0]["box"]
        line = page.locator("#boxes g:last-child .line")
        assert float(line.get_attribute("x") or "nan") == pytest.approx(best["xmin"])
        width = float(line.get_attribute("width") or "nan")
        assert width == pytest.approx(best["xmax"] - best["xmin"], abs=1e-3)
        assert canvas_pixels(page, "#overlay")[..., 3].any()


def test_segment_paints_exactly_the_label_map(
    open_page: OpenPage, base_url: str, photograph: bytes
) -> None:
    page = open_page()
    choose_task(page, "segment")
    pick(page, photograph)
    wait_for_answer(page)
    answer = ask(base_url, "segment", photograph)
    names = page.locator(".items button span:nth-child(2)").all_inner_texts()
    assert names == [area["label"] for area in answer["predictions"]]
    labels = np.asarray(Image.open(BytesIO(base64.b64decode(answer["label_map"]))))
    painted = canvas_pixels(page, "#overlay")
    factor = painted.shape[0] // labels.shape[0]
    centres = painted[factor // 2 :: factor, factor // 2 :: factor]
    uncoloured = [a["class_id"] for a in answer["predictions"] if a["label"] == "background"]
    is_painted = ~np.isin(labels, uncoloured)
    np.testing.assert_array_equal(centres[..., 3] == 255, is_painted)
    np.testing.assert_array_equal(centres[is_painted, :3], class_colours()[labels[is_painted]])


def test_segment_names_the_class_under_the_pointer(
    open_page: OpenPage, base_url: str, photograph: bytes
) -> None:
    page = open_page()
    choose_task(page, "segment")
    pick(page, photograph)
    wait_for_answer(page)
    answer = ask(base_url, "segment", photograph)
    labels = np.asarray(Image.open(BytesIO(base64.b64decode(answer["label_map"]))))
    names = {area["class_id"]: area["label"] for area in answer["predictions"]}
    frame = page.locator("#stage").bounding_box()
    assert frame is not None
    for x, y in ((20, 30), (160, 100), (300, 190)):
        page.mouse.move(
            frame["x"] + (x + 0.5) * frame["width"] / labels.shape[1],
            frame["y"] + (y + 0.5) * frame["height"] / labels.shape[0],
        )
        expect(page.locator(".tag.pointer")).to_have_text(names[int(labels[y, x])])
    page.locator("#opacity").fill("0.25")
    assert page.evaluate("document.querySelector('#overlay').style.opacity") == "0.25"


def test_dropped_picture_runs(open_page: OpenPage, photograph: bytes) -> None:
    page = open_page()
    transfer = _transfer(page, photograph)
    page.dispatch_event("#drop-zone", "dragenter", {"dataTransfer": transfer})
    expect(page.locator(".drop-hint")).to_be_visible()
    page.dispatch_event("#drop-zone", "drop", {"dataTransfer": transfer})
    wait_for_answer(page)
    expect(page.locator(".drop-hint")).to_be_hidden()
    assert "dropped.jpg" in page.inner_text("#caption")
    assert page.locator(".bars li").count() > 1


def test_pasted_picture_runs(open_page: OpenPage, photograph: bytes) -> None:
    page = open_page()
    page.evaluate(
        "transfer => document.dispatchEvent(new ClipboardEvent('paste',"
        " {clipboardData: transfer, bubbles: true}))",
        _transfer(page, photograph),
    )
    wait_for_answer(page)
    assert page.locator(".bars li").count() > 1


def _transfer(page: Page, picture: bytes) -> Any:
    return page.evaluate_handle(
        """text => {
          const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "dropped.jpg", {type: "image/jpeg"}));
          return transfer;
        }""",
        base64.b64encode(picture).decode(),
    )


def test_every_sample_is_offered_and_runs(open_page: OpenPage, base_url: str) -> None:
    samples = httpx.get(f"{base_url}samples", trust_env=False).raise_for_status().json()
    page = open_page()
    if not samples:
        expect(page.locator("#samples-block")).to_be_hidden()
        pytest.skip("no sample pictures are installed")
    expect(page.locator("#samples button")).to_have_count(len(samples))
    for task in TASKS:
        choose_task(page, task)
        page.locator("#samples button").first.click()
        wait_for_answer(page)
        assert page.locator("#samples button").first.get_attribute("aria-pressed") == "true"
        assert samples[0]["name"] in page.inner_text("#caption")
    loaded = page.evaluate("[...document.querySelectorAll('#samples img')].map(i => i.alt)")
    assert all(loaded), "every sample needs a text for those who cannot see it"


def test_text_file_is_refused_with_advice(
    open_page: OpenPage, watch: Any, photograph: bytes
) -> None:
    watch.expected = ("Failed to load resource",)
    page = open_page()
    pick(page, b"not a picture at all\n" * 20, "notes.txt", "text/plain")
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("JPEG, PNG, WebP, BMP, TIFF or GIF")
    expect(problem).to_contain_text("request ")
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#json-card")).to_be_hidden()
    pick(page, photograph)
    wait_for_answer(page)
    expect(problem).to_be_hidden()


@pytest.mark.parametrize("task", TASKS)
def test_answer_timings_and_banner(
    open_page: OpenPage, base_url: str, photograph: bytes, task: str
) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    choose_task(page, task)
    pick(page, photograph)
    wait_for_answer(page)
    expected = ask(base_url, task, photograph)
    page.locator("#json-card summary").click()
    assert len(page.inner_text("#json")) < 40_000
    page.locator("#copy-json").click()
    expect(page.locator("#copy-json")).to_have_text("Copied")
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert copied.keys() == expected.keys()
    assert copied["predictions"] == expected["predictions"]
    assert page.locator("#demo-banner").is_visible() is expected["model"]["demo"]
    stages = page.locator(".stages li span:nth-child(2)").all_inner_texts()
    assert set(expected["timings"]) - {"total"} <= set(stages)
    assert "ms in all" in page.inner_text("#timings")


def test_curl_line_gives_the_same_answer(
    open_page: OpenPage, base_url: str, photograph: bytes, tmp_path: Path
) -> None:
    shell = shutil.which("bash")
    if shell is None or shutil.which("curl") is None:
        pytest.skip("no bash or no curl found on PATH")
    page = open_page()
    choose_task(page, "detect")
    pick(page, photograph, "it's a photo.jpg")
    wait_for_answer(page)
    (tmp_path / "it's a photo.jpg").write_bytes(photograph)
    command = page.inner_text("#curl")
    run = [shell, "-c", command]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, check=True)  # noqa: S603 - ours
    expected = ask(base_url, "detect", photograph)
    assert json.loads(done.stdout)["predictions"] == expected["predictions"]


@pytest.mark.parametrize("task", TASKS)
def test_overlay_can_be_saved(open_page: OpenPage, photograph: bytes, task: str) -> None:
    page = open_page()
    choose_task(page, task)
    pick(page, photograph)
    wait_for_answer(page)
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == f"photo-{task}.png"
    with Image.open(download.value.path()) as overlay:
        assert (overlay.format, overlay.size) == ("PNG", (320, 200))


def test_rotated_photograph_is_shown_as_the_server_sees_it(
    open_page: OpenPage, base_url: str
) -> None:
    stored = np.zeros((120, 200, 3), dtype=np.uint8)
    stored[:, :100] = (250, 20, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: the left half is the upper one
    encoded = BytesIO()
    Image.fromarray(stored).save(encoded, "JPEG", quality=95, exif=exif)
    page = open_page()
    choose_task(page, "detect")
    pick(page, encoded.getvalue())
    wait_for_answer(page)
    assert ask(base_url, "detect", encoded.getvalue())["image"] == {"width": 120, "height": 200}
    assert "120 \u00d7 200" in page.inner_text("#caption")
    shown = canvas_pixels(page, "#picture")
    assert shown.shape[0] > shown.shape[1]
    upper, lower = shown[shown.shape[0] // 4], shown[3 * shown.shape[0] // 4]
    assert (upper[:, 0] > 200).all()
    assert (lower[:, 0] < 50).all()


def test_format_that_only_the_server_reads(open_page: OpenPage, photograph: bytes) -> None:
    encoded = BytesIO()
    Image.open(BytesIO(photograph)).save(encoded, "TIFF")
    page = open_page()
    choose_task(page, "segment")
    pick(page, encoded.getvalue(), "scan.tif", "image/tiff")
    wait_for_answer(page)
    assert "this browser cannot show the format" in page.inner_text("#caption")
    assert page.locator("#stage").is_visible()
    assert canvas_pixels(page, "#overlay")[..., 3].any()


def test_page_works_without_a_pointer(open_page: OpenPage, photograph: bytes) -> None:
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip-link"
    page.locator("input[value=classify]").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("input[value=detect]").is_checked()
    page.keyboard.press("Tab")
    with page.expect_file_chooser() as chooser:
        page.locator("#file").focus()
        page.keyboard.press("Enter")
    file = FilePayload(name="photo.jpg", mimeType="image/jpeg", buffer=photograph)
    chooser.value.set_files(file)
    wait_for_answer(page)
    page.locator("#threshold").focus()
    page.keyboard.press("Home")
    assert page.inner_text(".slider output") == "0.05"
    page.locator("input[value=detect]").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#opacity")).to_be_visible()
    legend = page.locator(".items button").first
    legend.focus()
    page.keyboard.press("Enter")
    assert legend.get_attribute("aria-pressed") == "true"


# colours do not make a page wider
@pytest.mark.parametrize(
    ("task", "scheme"), [("classify", "light"), ("detect", "dark"), ("segment", "light")]
)
def test_phone_needs_no_sideways_scrolling(
    open_page: OpenPage, photograph: bytes, task: str, scheme: str
) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    choose_task(page, task)
    pick(page, photograph, "a-very-long-file-name-without-any-place-to-break-" * 3 + ".jpg")
    wait_for_answer(page)
    page.locator("#json-card summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    stage = page.locator("#stage").bounding_box()
    assert stage is not None
    assert stage["width"] > 250


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(open_page: OpenPage, photograph: bytes, scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    pick(page, photograph)
    wait_for_answer(page)
    lightness = page.evaluate(LUMINANCE, "html")["paper"]
    assert (lightness > 0.8) == (scheme == "light")
    places = ("html", ".muted", ".summary", ".banner", ".button.primary", "#run", ".tabs span")
    for place in (*places, "input:checked + span", ".number", ".code", ".page-header nav a"):
        found = page.evaluate(LUMINANCE, place)
        light, dark = sorted((found["ink"], found["paper"]), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, place


# relative luminance (WCAG 2) of the text and of the first opaque colour behind it
LUMINANCE = """selector => {
  const luminance = (css) => css.match(/[\\d.]+/g).slice(0, 3)
    .map((value) => value / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  let node = document.querySelector(selector);
  const ink = luminance(getComputedStyle(node).color);
  while (getComputedStyle(node).backgroundColor === "rgba(0, 0, 0, 0)") node = node.parentElement;
  return { ink, paper: luminance(getComputedStyle(node).backgroundColor) };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_api_docs_come_from_this_server_alone(open_page: OpenPage, scheme: str) -> None:
    page = open_page("docs", color_scheme=scheme)
    for task in TASKS:
        expect(page.locator(".opblock-summary-path", has_text=f"/{task}").first).to_be_visible()
