"""Models and pictures that come with the installation."""

import re
from pathlib import Path

from demo import shipped


def shipped_models() -> list[Path]:
    """The demo models (`.safetensors`), sorted by name; empty when none are installed."""
    return shipped.model_files()


def sample_images() -> list[Path]:
    """Sample photographs and scenes, sorted by name; empty when none are installed."""
    return shipped.sample_files()


def sample_title(path: Path) -> str:
    """What a sample shows, in a few words; for a picture without a title, its name."""
    return shipped.sample_titles().get(path.name) or re.sub("[-_]", " ", path.stem).capitalize()
