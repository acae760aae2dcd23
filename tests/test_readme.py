"""What the README tells a newcomer to type works, with the models that ship."""

import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.processes import ROOT, service_process

README = (ROOT / "README.md").read_text(encoding="utf-8")
CURL_LINES = [line for line in README.splitlines() if line.startswith("curl ")]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with service_process(backend="torch", log__level="warning") as service:
        yield service.url


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("line", CURL_LINES)
def test_curl_lines(line: str, url: str, tmp_path: Path) -> None:
    arguments = shlex.split(line.replace("http://127.0.0.1:8000", url))
    picture = tmp_path / "result.png"
    arguments = [str(picture) if part == "result.png" else part for part in arguments]
    done = subprocess.run(  # noqa: S603 - lines of our own README
        [*arguments, "--fail"], cwd=ROOT, capture_output=True, check=True, timeout=60
    )
    if picture.exists():
        assert picture.read_bytes().startswith(b"\x89PNG")
        return
    answer = json.loads(done.stdout)
    assert answer["model"]["demo"] is True
    assert "balloon" in {prediction["label"] for prediction in answer["predictions"]}


def test_there_is_a_line_for_every_task() -> None:
    assert {task for task in ("classify", "detect", "segment") if task in " ".join(CURL_LINES)} == {
        "classify",
        "detect",
        "segment",
    }
