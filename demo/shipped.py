"""Where the trained weights and the sample pictures of the demo lie."""

import json
from functools import cache
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parent
_PICTURES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp"})


def model_files() -> list[Path]:
    """`demo/weights/*.safetensors`, sorted by name."""
    return sorted((_ROOT / "weights").glob("*.safetensors"))


def sample_files() -> list[Path]:
    """Pictures of `demo/samples`: scenes that the demo models understand first, then by name."""
    pictures = (p for p in (_ROOT / "samples").glob("*") if p.suffix.lower() in _PICTURES)
    return sorted(pictures, key=lambda path: (not path.stem.startswith("stickers"), path.name))


@cache
def sample_titles() -> dict[str, str]:
    """Name of a file of `demo/samples` -> what it shows, as a reader would say it."""
    path = _ROOT / "samples" / "titles.json"
    if not path.is_file():
        return {}
    titles: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return titles
