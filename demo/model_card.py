"""Fill the figures of `MODEL_CARD.md` from the evaluation's result file.

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


def filled(card: str, report: Mapping[str, Any]) -> str:
    """The card's text with the figures of the report.

    Raises:
        ModelCardError: the card has no place for them.
    """
    before, begin, rest = card.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ModelCardError(f"the card has no {_BEGIN.strip()} ... {_END}")
    return before + begin + figures_table(report) + end + after


def main() -> None:
    report = json.loads(EVALUATION.read_text(encoding="utf-8"))
    CARD.write_text(filled(CARD.read_text(encoding="utf-8"), report), encoding="utf-8")


if __name__ == "__main__":
    main()
