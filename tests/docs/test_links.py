"""Every relative link and anchor of the pages leads somewhere."""

import re
from pathlib import Path

import pytest

from tests.service.processes import ROOT

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "deploy/**/*.md", "demo/*.md", "tests/data/crds/*.md")
    for path in ROOT.glob(pattern)
)
_LINK = re.compile(r"""\]\(<?([^)>\s]+)>?(?:\s+"[^"]*")?\)|(?:src|href)="([^"]+)\"""")


def text_of(page: Path) -> str:
    """Without code, in which brackets mean other things."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def links_of(page: Path) -> list[str]:
    found = [one or other for one, other in _LINK.findall(text_of(page))]
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors_of(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    found: list[str] = []
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ +(.+?)\s*$", text, flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        again = found.count(anchor)
        found += [anchor] if not again else [anchor, f"{anchor}-{again}"]
    return set(found)


def broken(page: Path) -> list[str]:
    wrong = []
    for link in links_of(page):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors_of(path)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_the_pages_are_linked() -> None:
    index = ROOT / "docs/README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in links_of(index)}
    pages = {*ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/*/README.md")}
    unlinked = pages - linked - {index}
    assert unlinked == set()


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    other = tmp_path / "other.md"
    other.write_text("# One `thing`: two\n\n## Again\n\n## Again\n", encoding="utf-8")
    page.write_text(
        "[a](other.md#one-thing-two) [b](other.md#again-1) [c](nowhere.md) [d](other.md#third)\n"
        '<img src="no.webp"> [e](https://example.com) `[f](code.md)` [g](#title)\n# Title\n',
        encoding="utf-8",
    )
    assert broken(page) == ["nowhere.md", "other.md#third", "no.webp"]
