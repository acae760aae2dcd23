"""Every example of docs/clients.md, executed against a running server."""

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.service.processes import ROOT, ServiceProcess, service_process

PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
BASE = "127.0.0.1:8000"
_FENCED = re.compile(
    r"^```(\w+)\n(.*?)^```\n(?:<!-- prints: (.*?)(; also when busy)? -->)?", re.M | re.S
)
NODE = shutil.which("node")
NEEDS = {
    "httpx": "httpx",
    "requests": "requests",
    "huggingface_hub": "huggingface_hub",
    "tritonclient": "tritonclient.http",
}


@dataclass(frozen=True)
class Example:
    """A fenced block.

    Attributes:
        prints: what is in its output.
        retries: it waits for a busy server.
    """

    number: int
    language: str
    code: str
    prints: str
    retries: bool

    def __str__(self) -> str:
        return f"{self.number}-{self.language}"


EXAMPLES = [
    Example(number, language, code, prints, bool(busy))
    for number, (language, code, prints, busy) in enumerate(_FENCED.findall(PAGE))
]


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    with service_process(backend="torch", log__level="warning") as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where examples run: what they read of the repository is there, what they write is not."""
    for name in ("demo", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(  # noqa: S603 - examples of our own page
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_example(example: Example, address: str, folder: Path) -> str:
    """What it prints."""
    code = example.code.replace(BASE, address)
    match example.language:
        case "sh":
            if shutil.which("curl") is None:
                pytest.skip("curl is not installed")
            return run(["bash", "-euo", "pipefail", "-c", code], folder)
        case "python":
            for name, module in NEEDS.items():
                if re.search(rf"^(import|from) {name}\b", code, re.M):
                    pytest.importorskip(module, reason="the example is about it")
            # a mistake in the example shall not hide behind a warning
            return run([sys.executable, "-W", "error::SyntaxWarning", "-c", code], folder)
        case "js":
            if NODE is None:
                pytest.skip("node is not installed; the browser runs these lines as well")
            (folder / "example.mjs").write_text(code, encoding="utf-8")
            return run([NODE, "example.mjs"], folder)
    raise AssertionError(f"nothing runs {example.language}")


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_examples(example: Example, service: ServiceProcess, folder: Path) -> None:
    output = run_example(example, service.url.removeprefix("http://"), folder)
    assert example.prints in output
    for name in re.findall(r"-o (\S+\.png)", example.code):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.browser
def test_examples_in_a_browser(service: ServiceProcess) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="it drives the browser")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as start:
        browser = start.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        lines: list[str] = []
        page.on("console", lambda message: lines.append(message.text))
        page.goto(f"{service.url}/samples/stickers-1.jpg")
        # a browser reads no files by their path, as the example with an import does
        examples = [one for one in EXAMPLES if one.language == "js" and "import " not in one.code]
        for example in examples:
            lines.clear()
            code = example.code.replace(f"http://{BASE}", service.url)
            page.evaluate(f"(async () => {{ {code} }})()")
            assert example.prints in "\n".join(lines), str(example)
        browser.close()
    assert len(examples) >= 4


class _Busy(BaseHTTPRequestHandler):
    """Refuses twice, with 429 and 503, before it answers."""

    refusals: list[int]

    def do_GET(self) -> None:
        self._answer(200, b"a picture")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.refusals:
            # curl takes no zero for an answer, and waits for a second
            wait_s = 2 - len(self.refusals)
            self._answer(self.refusals.pop(0), b"{}", retry_after=str(wait_s))
        else:
            self._answer(200, b'{"predictions": [{"label": "balloon"}]}')

    def _answer(self, status: int, content: bytes, retry_after: str | None = None) -> None:
        self.send_response(status)
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def busy() -> Iterator[ThreadingHTTPServer]:
    handler = type("Handler", (_Busy,), {"refusals": [429, 503]})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("example", [one for one in EXAMPLES if one.retries], ids=str)
def test_retries(example: Example, busy: ThreadingHTTPServer, folder: Path) -> None:
    output = run_example(example, f"127.0.0.1:{busy.server_address[1]}", folder)
    assert example.prints in output
    assert busy.RequestHandlerClass.refusals == []  # type: ignore[attr-defined]


def test_the_page_has_examples_of_everything() -> None:
    code = {
        language: "\n".join(one.code for one in EXAMPLES if one.language == language)
        for language in ("sh", "python", "js")
    }
    assert {one.language for one in EXAMPLES} == set(code)
    for language, text in code.items():
        assert all(f"/{task}" in text for task in ("classify", "detect", "segment")), language
    assert all(name in code["python"] for name in NEEDS)
    assert {one.language for one in EXAMPLES if one.retries} == set(code)
    # what prints nothing writes files
    assert all("-o " in one.code for one in EXAMPLES if not one.prints)
