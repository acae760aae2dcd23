"""Downloads of the packages that hold the pictures, by name, with the ordinary clients."""

import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FREE_DEBIAN: Final = ("gcompris-qt-data", "fonts-noto-color-emoji")
STAMPS_DEBIAN: Final = "tuxpaint-stamps-default"
NPM: Final = {
    "fluent-3d": "@lobehub/fluent-emoji-3d@1.1.0",
    "fluent-flat": "@lobehub/fluent-emoji-flat@1.1.0",
    "fluent-modern": "@lobehub/fluent-emoji-modern@1.0.0",
    "noto-v1": "@iconify-json/noto-v1@1.2.5",
    "twemoji": "@twemoji/svg@15.0.0",
}


class SourceError(RuntimeError):
    """A package could not be fetched or does not hold what is expected."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the unpacked packages lie.

    Attributes:
        debian: package name -> folder with its file tree.
        npm: short name, a key of `NPM` -> the `package` folder inside its tarball.
    """

    debian: dict[str, Path]
    npm: dict[str, Path]


def fetch(root: Path, *, with_stamps: bool) -> Sources:
    """Download and unpack what is not yet below `root`; nothing is installed.

    Args:
        with_stamps: also the Tux Paint stamps (GPL-2, 161 MB).

    Raises:
        SourceError: a client is missing or fails; the message has its last words.
    """
    root = root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    names = (*FREE_DEBIAN, STAMPS_DEBIAN) if with_stamps else FREE_DEBIAN
    return Sources(
        debian={name: _debian(root, name) for name in names},
        npm={short: _npm(root, short, package) for short, package in NPM.items()},
    )


def _debian(root: Path, name: str) -> Path:
    target = root / name
    if not target.exists():
        if not list(root.glob(f"{name}_*.deb")):
            _call("apt-get", "download", name, cwd=root)
        partial = root / f"{name}.part"
        shutil.rmtree(partial, ignore_errors=True)
        _call("dpkg-deb", "-x", str(next(root.glob(f"{name}_*.deb"))), str(partial), cwd=root)
        partial.rename(target)
    return target


def _npm(root: Path, short: str, package: str) -> Path:
    target = root / short
    if not target.exists():
        stem = package.removeprefix("@").replace("/", "-")
        archive = root / ("-".join(stem.rsplit("@", 1)) + ".tgz")
        if not archive.exists():
            _call("npm", "pack", "--silent", package, cwd=root)
        partial = root / f"{short}.part"
        shutil.rmtree(partial, ignore_errors=True)
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
        partial.rename(target)
    return target / "package"


def _call(program: str, *arguments: str, cwd: Path) -> None:
    path = shutil.which(program)
    if path is None:
        raise SourceError(f"{program} is not installed; it fetches or unpacks the packages")
    done = subprocess.run(  # noqa: S603 - fixed programs and package names, no shell
        [path, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()
        raise SourceError(f"{program} {' '.join(arguments)}: {words[-1] if words else 'failed'}")
