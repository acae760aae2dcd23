"""The `.sha256` file beside a model file: whether the weights are those that were meant."""

import re
from pathlib import Path
from typing import Final, Literal

from service.backends.torch_backend import file_sha256

HashPolicy = Literal["if_present", "required"]

# what sha256sum writes; the name may be missing, and nothing else may follow
_LINE: Final = re.compile(r"([0-9a-fA-F]{64})(?:[ \t]+\*?(\S.*))?\s*")
_MAX_BYTES: Final = 4096


class ModelHashError(ValueError):
    """A model file is not the one that its `.sha256` file tells of, or nothing tells of it."""


def sidecar_path(path: Path) -> Path:
    """`tiny.safetensors` -> `tiny.safetensors.sha256`."""
    return path.with_name(f"{path.name}.sha256")


def write_sidecar(path: Path) -> str:
    """Write the hash of a model file beside it, for `sha256sum --check`; returns the hash."""
    sha256 = file_sha256(path)
    sidecar_path(path).write_text(f"{sha256}  {path.name}\n", encoding="utf-8")
    return sha256


def verify_model_hash(path: Path, policy: HashPolicy) -> str | None:
    """Compare a model file with the hash beside it.

    Returns:
        the hash, hexadecimal; None when no file holds one and none is required.

    Raises:
        ModelHashError: another hash, a malformed `.sha256` file, or none where one is required.
        OSError: a file that cannot be read.
    """
    expected = _expected_sha256(path, policy)
    if expected is None:
        return None
    found = file_sha256(path)
    if found != expected:
        raise ModelHashError(
            f"{path} has SHA-256 {found}, but {sidecar_path(path).name} says {expected}"
        )
    return found


def _expected_sha256(path: Path, policy: HashPolicy) -> str | None:
    sidecar = sidecar_path(path)
    try:
        with sidecar.open("rb") as file:
            content = file.read(_MAX_BYTES).decode("utf-8", errors="replace")
    except FileNotFoundError:
        if policy == "if_present":
            return None
        raise ModelHashError(
            f"{path} has no {sidecar.name} beside it, which model_hashes = required asks for"
        ) from None
    match = _LINE.fullmatch(content)
    if match is None:
        raise ModelHashError(f"{sidecar} is no line of sha256sum: 64 hexadecimal digits, a name")
    sha256, name = match.groups()
    if name is not None and Path(name.strip()).name != path.name:
        raise ModelHashError(f"{sidecar} tells of {name.strip()!r}, not of {path.name!r}")
    return sha256.lower()
