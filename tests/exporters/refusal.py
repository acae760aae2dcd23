"""Reading a checkpoint that must be refused."""

from pathlib import Path

import pytest

from exporters.official import OfficialCheckpointError, open_official


def read_all(path: Path) -> None:
    with open_official(path) as checkpoint:
        checkpoint.read(checkpoint.weights())


def refused(path: Path) -> str:
    """The message of the refusal, which is one line."""
    with pytest.raises(OfficialCheckpointError) as caught:
        read_all(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")
