"""Models and pictures that come with the installation."""

from pathlib import Path

from demo import shipped


def shipped_models() -> list[Path]:
    """The demo models (`.safetensors`), sorted by name; empty when none are installed."""
    return shipped.model_files()


def sample_images() -> list[Path]:
    """Sample photographs and scenes, sorted by name; empty when none are installed."""
    return shipped.sample_files()
