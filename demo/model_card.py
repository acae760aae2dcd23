"""Fill the figures of `MODEL_CARD.md` and of the README from the evaluation's result file.

python -m demo.model_card
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from demo.evaluate import OUT as EVALUATION

CARD: Final = Path(__file__).with_name("MODEL_CARD.md")
_BEGIN: Final = "<!-- figures -->\n"
_END: Final = "<!-- /figures -->"
_SPLITS: Final = {"heldout": "held-out", "unseen": "unseen", "real": "real"}
_COUNT: Final = "pictures"
README: Final = Path(__file__).parents[1] / "README.md"
_README_BEGIN: Final = "<!-- demo figures -->\n"
_README_END: Final = "<!-- end of demo figures -->"
_README_LINES: Final = {
    "sticker-classify": ("top-1",),
    "sticker-detect": ("box AP50", "mask AP50"),
    "sticker-segment": ("mIoU",),
}


class ModelCardError(ValueError):
    """The card or the result file has another form than expected."""


def figures_table(report: Mapping[str, Any]) -> str:
    """Markdown: one line per model and metric, one column per source of pictures.

    Raises:
        ModelCardError: a case is not named after a model and a source of pictures.
    """
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in report["rows"]:
        model, _, split = row["case"].rpartition("-")
        if split not in _SPLITS or not model:
            raise ModelCardError(f"case {row['case']!r}, expected one that ends in a split's name")
        text = f"{row['value']:.0f}" if row["metric"] == _COUNT else f"{row['value']:.3f}"
        cells.setdefault((model, row["metric"]), {})[split] = text
    lines = [
        f"| model | metric | {' | '.join(_SPLITS.values())} |",
        f"| --- | --- |{' --- |' * len(_SPLITS)}",
    ]
    for (model, metric), values in cells.items():
        columns = " | ".join(values.get(split, "-") for split in _SPLITS)
        lines.append(f"| `{model}` | {metric} | {columns} |")
    date = report["date"].split("T")[0]
    lines.append(f"\nMeasured {date} on {report['device']} by `{report['command']}`.\n")
    return "\n".join(lines)


def readme_table(report: Mapping[str, Any]) -> str:
    """The few figures that tell a newcomer most, as Markdown."""
    values = {(row["case"], row["metric"]): row["value"] for row in report["rows"]}
    lines = [
        "| | training stickers on new photographs | an emoji design never seen | "
        "ordinary photographs |",
        "| --- | --- | --- | --- |",
    ]
    for model, metrics in _README_LINES.items():
        for metric in metrics:
            found = [values.get((f"{model}-{split}", metric)) for split in _SPLITS]
            cells = ["-" if value is None else f"{value:.3f}" for value in found]
            lines.append(f"| {model.removeprefix('sticker-')}, {metric} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def replaced(text: str, begin: str, end: str, content: str) -> str:
    """`text` with `content` between two markers.

    Raises:
        ModelCardError: a marker is missing.
    """
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ModelCardError(f"the text has no {begin.strip()} ... {end.strip()}")
    return before + begin + content + end + after


def filled(card: str, report: Mapping[str, Any]) -> str:
    """The card's text with the figures of the report.

    Raises:
        ModelCardError: the card has no place for them.
    """
    return replaced(card, _BEGIN, _END, figures_table(report))


def main() -> None:
    report = json.loads(EVALUATION.read_text(encoding="utf-8"))
    CARD.write_text(filled(CARD.read_text(encoding="utf-8"), report), encoding="utf-8")
    readme = README.read_text(encoding="utf-8")
    table = readme_table(report)
    README.write_text(replaced(readme, _README_BEGIN, _README_END, table), encoding="utf-8")


if __name__ == "__main__":
    main()
