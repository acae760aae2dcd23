"""Machine code of CUDA C++ kernels on disk, beside that of Triton's.

Compiling takes seconds a kernel, and a restarted server, or an unusual size of picture, should not
wait for what was compiled before. `TRITON_CACHE_DIR` moves both; a folder that cannot be written
only means that the next process compiles again.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

# in Triton's cache
FOLDER: Final = "smserve-cubin"

log = logging.getLogger(__name__)


def compiled_once(source: bytes, options: Sequence[str], compile_now: Callable[[], bytes]) -> bytes:
    """The machine code of `source`, compiled only if nobody has done so before.

    Args:
        source: everything the compiler reads.
        options: everything else that its output depends on, but for its version.
    """
    path = _path(source, options)
    try:
        return path.read_bytes()
    except OSError:
        code = compile_now()
    try:
        _write(path, code)
    except OSError as exc:
        log.debug("machine code is not kept", extra={"path": str(path), "reason": str(exc)})
    return code


def is_compiled(source: bytes, options: Sequence[str]) -> bool:
    """Whether `compiled_once` would find it."""
    return _path(source, options).is_file()


def _path(source: bytes, options: Sequence[str]) -> Path:
    return _folder() / f"{_key(source, options)}.cubin"


def _folder() -> Path:
    import triton

    return Path(triton.knobs.cache.dir) / FOLDER


def _key(source: bytes, options: Sequence[str]) -> str:
    from cuda.bindings import nvrtc

    _, major, minor = nvrtc.nvrtcVersion()
    parts = [source, *(option.encode() for option in options), f"{major}.{minor}".encode()]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _write(path: Path, code: bytes) -> None:
    """Whole or not at all: other processes may be reading."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(code)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
