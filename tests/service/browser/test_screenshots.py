"""The pictures of the documentation, made by the page itself: UPDATE_SCREENSHOTS=1."""

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from service.shipped import sample_images, shipped_models

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
IMAGES = Path(__file__).parents[3] / "docs" / "images"
SIZES = {"desktop": (1280, 860), "phone": (390, 844)}
TASKS = ("classify", "detect", "segment")
IS_UPDATE = os.environ.get("UPDATE_SCREENSHOTS") == "1"  # noqa: TID251 - of this test alone


def _scene() -> str:
    """A composed scene, on which the demo models have something to find."""
    names = [path.name for path in sample_images()]
    scenes = [name for name in names if "stickers" in name]
    return (scenes or names)[0]


@pytest.mark.skipif(not IS_UPDATE, reason="UPDATE_SCREENSHOTS is not 1")
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_write_screenshots(open_page: OpenPage, task: str, scheme: str, size: str) -> None:
    if not shipped_models() or not sample_images():
        pytest.fail("screenshots show the demo models on the samples; neither may be missing")
    width, height = SIZES[size]
    page = open_page(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    page.locator(f"input[value={task}]").check()
    page.locator(f'#samples button[data-sample="{_scene()}"]').click()
    expect(page.locator("#json-card")).to_be_visible()
    page.evaluate("document.activeElement.blur()")
    IMAGES.mkdir(parents=True, exist_ok=True)
    shot = Image.open(BytesIO(page.screenshot(full_page=size == "desktop")))
    # a tenth of the size of a PNG file
    shot.save(IMAGES / f"playground-{task}-{scheme}-{size}.webp", quality=88, method=6)
    assert shot.width == width
