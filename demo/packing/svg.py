"""SVG -> RGBA pictures, drawn by a headless Chromium: emoji use gradients, masks and filters."""

import base64
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from demo.packing.sources import SourceError

_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "chrome")
_COLUMNS: Final = 12


def rasterise(drawings: Sequence[str], side: int) -> list[Image.Image]:
    """Draw SVG documents on transparent ground.

    Args:
        drawings: texts of SVG files.
        side: of the squares they are fitted into, pixels.

    Raises:
        SourceError: no Chromium is found, or it draws nothing.
    """
    rows = -(-len(drawings) // _COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "sheet.html"
        page.write_text(_page(drawings, side), encoding="utf-8")
        sheet = _screenshot(page, _COLUMNS * side, rows * side)
    cells = [divmod(i, _COLUMNS) for i in range(len(drawings))]
    return [
        sheet.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
        for row, column in cells
    ]


def _page(drawings: Sequence[str], side: int) -> str:
    pictures = []
    for i, text in enumerate(drawings):
        row, column = divmod(i, _COLUMNS)
        data = base64.b64encode(text.encode()).decode()
        pictures.append(
            f'<img style="position:absolute;left:{column * side}px;top:{row * side}px;'
            f'width:{side}px;height:{side}px" src="data:image/svg+xml;base64,{data}">'
        )
    return f"<!doctype html><body style='margin:0'>{''.join(pictures)}</body>"


def _screenshot(page: Path, width: int, height: int) -> Image.Image:
    browser = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise SourceError(f"no browser found to draw SVG, looked for {', '.join(_BROWSERS)}")
    target = page.with_suffix(".png")
    # Chromium refuses its sandbox to root; the page holds only the packages' own drawings
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
        [
            browser,
            "--headless",
            "--disable-gpu",
            "--hide-scrollbars",
            "--force-device-scale-factor=1",
            "--default-background-color=00000000",
            *sandbox,
            f"--user-data-dir={page.parent / 'profile'}",
            f"--window-size={width},{height}",
            f"--screenshot={target}",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != 0 or not target.exists():
        raise SourceError(f"{browser} did not draw the sheet: {done.stderr.strip()[-300:]}")
    with Image.open(target) as image:
        return image.convert("RGBA")
