"""A real server in a process of its own, and headless Chromium to look at it."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright", reason="the playground is tested in a browser")

from playwright.sync_api import Browser, BrowserContext, Page, Request, sync_playwright

from service.shipped import shipped_models

ENVIRONMENT = os.environ  # noqa: TID251 - the server must start without it
START_TIMEOUT_S = 120.0
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SERVE = """
import sys
from service.start import run
from service.settings import load_settings
sys.exit(run(load_settings(port=int(sys.argv[1]))))
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _server_environment() -> dict[str, str]:
    """Nothing of the caller's own configuration, and the stub where no model is installed."""
    environment = {
        name: value for name, value in ENVIRONMENT.items() if not name.startswith("SMSERVE_")
    }
    environment["SMSERVE_SHUTDOWN__GRACE_S"] = "0"
    if not shipped_models():
        environment["SMSERVE_BACKEND"] = "stub"
    return environment


def _wait_until_ready(base: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"the server ended with {server.returncode}:\n{log.read_text()[-4000:]}")
        try:
            if httpx.get(f"{base}readyz", timeout=2, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.2)
    pytest.fail(f"the server was not ready after {START_TIMEOUT_S} s:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="session")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a ready server, with a slash at its end."""
    port = _free_port()
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("wb") as output:
        server = subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", SERVE, str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_server_environment(),
            cwd=Path(__file__).parents[3],
        )
        try:
            base = f"http://127.0.0.1:{port}/"
            _wait_until_ready(base, server, log)
            yield base
        finally:
            server.terminate()
            try:
                server.wait(timeout=40)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium; module scope, because its event loop must end before other tests."""
    chromium = shutil.which("chromium")
    if chromium is None:
        reason = "no chromium found on PATH, needed for the tests of the page"
        if "CI" in ENVIRONMENT:
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_FLAGS))
        yield browser
        browser.close()


@dataclass
class Watch:
    """What a page did that nobody clicked for.

    Attributes:
        complaints: console errors and warnings, exceptions, violations of the security policy.
        hosts: every host that was asked for something over the network.
        expected: texts of complaints that a test provokes.
    """

    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    expected: tuple[str, ...] = ()

    def follow(self, page: Page) -> None:
        page.on(
            "console",
            lambda message: (
                self.complaints.append(f"{message.type}: {message.text}")
                if message.type in {"error", "warning"}
                else None
            ),
        )
        page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        page.on("request", self._note_host)

    def _note_host(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in {"data", "blob"}:
            self.hosts.add(address.netloc)

    def check(self, base_url: str) -> None:
        """Fails if a page complained or spoke to another server."""
        unexpected = [
            text for text in self.complaints if not any(part in text for part in self.expected)
        ]
        assert unexpected == []
        assert self.hosts <= {urlsplit(base_url).netloc}


OpenPage = Callable[..., Page]


@pytest.fixture
def watch(base_url: str) -> Iterator[Watch]:
    """Of the pages of one test."""
    watch = Watch()
    yield watch
    watch.check(base_url)


@pytest.fixture
def open_page(browser: Browser, base_url: str, watch: Watch) -> Iterator[OpenPage]:
    """Opens the playground (or another path); takes the options of a browser context."""
    contexts: list[BrowserContext] = []

    def open_one(path: str = "", **options: object) -> Page:
        settings: dict[str, object] = {"viewport": {"width": 1280, "height": 900}, **options}
        context = browser.new_context(**settings)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        watch.follow(page)
        page.goto(base_url + path)
        return page

    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def photograph() -> bytes:
    """JPEG of 320 x 200 pixels: a blue sky above green, a red disc."""
    rows, columns = np.mgrid[0:200, 0:320]
    rgb = np.where((rows < 110)[..., None], (90, 150, 230), (60, 130, 60)).astype(np.uint8)
    rgb[(rows - 100) ** 2 + (columns - 200) ** 2 < 50**2] = (220, 40, 40)
    encoded = BytesIO()
    Image.fromarray(rgb).save(encoded, "JPEG", quality=90)
    return encoded.getvalue()
