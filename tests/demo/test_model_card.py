"""The card's figures come from the result file and nowhere else."""

import json

import pytest

from demo.evaluate import OUT
from demo.model_card import (
    CARD,
    README,
    ModelCardError,
    figures_table,
    filled,
    readme_table,
)

REPORT = {
    "date": "2026-01-02T03:04:05+00:00",
    "device": "a device",
    "command": "python -m demo.evaluate",
    "rows": [
        {"case": "sticker-classify-heldout", "metric": "top-1", "unit": "1", "value": 0.91234},
        {"case": "sticker-classify-real", "metric": "top-1", "unit": "1", "value": 0.1},
        {"case": "sticker-detect-unseen", "metric": "pictures", "unit": "images", "value": 400},
    ],
}


def test_figures_stand_in_the_column_of_their_pictures() -> None:
    table = figures_table(REPORT)
    assert "| `sticker-classify` | top-1 | 0.912 | - | 0.100 |" in table
    assert "| `sticker-detect` | pictures | - | 400 | - |" in table
    assert "Measured 2026-01-02 on a device" in table


def test_filling_replaces_only_the_figures() -> None:
    card = "before\n<!-- figures -->\nold\n<!-- /figures -->\nafter\n"
    once = filled(card, REPORT)
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    assert filled(once, REPORT) == once


def test_a_card_without_a_place_is_refused() -> None:
    with pytest.raises(ModelCardError, match="the text has no"):
        filled("nothing here", REPORT)


def test_unknown_cases_are_refused() -> None:
    with pytest.raises(ModelCardError, match="'speed'"):
        figures_table({"rows": [{"case": "speed", "metric": "m", "unit": "1", "value": 1}]})


def test_the_committed_card_shows_the_committed_figures() -> None:
    card = CARD.read_text(encoding="utf-8")
    if not OUT.exists():
        assert "Not measured yet." in card
        return
    assert filled(card, json.loads(OUT.read_text(encoding="utf-8"))) == card


def test_the_readme_quotes_the_committed_evaluation() -> None:
    readme = README.read_text(encoding="utf-8")
    assert readme_table(json.loads(OUT.read_text(encoding="utf-8"))) in readme
