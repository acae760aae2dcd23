"""Where the trained weights and the sample pictures of the demo lie."""

from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parent
_PICTURES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp"})


def model_files() -> list[Path]:
    """`demo/weights/*.safetensors`, sorted by name."""
    return sorted((_ROOT / "weights").glob("*.safetensors"))


def sample_files() -> list[Path]:
    """Pictures of `demo/samples`, sorted by name."""
    return sorted(
        path for path in (_ROOT / "samples").glob("*") if path.suffix.lower() in _PICTURES
    )
