"""The authors' `.pth` files: state dicts and facts, read without running anything of the file."""

import hashlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from exporters.containers import Container, open_container
from exporters.errors import OfficialCheckpointError
from exporters.inert_objects import StorageRef, TensorRef, shown

__all__ = ["OfficialCheckpoint", "OfficialCheckpointError", "file_sha256", "open_official"]

# classification files, mmengine files
_WEIGHTS: Final = ("model", "state_dict")
_EMA: Final = "model_ema"
_PARALLEL_PREFIX: Final = "module."


class OfficialCheckpoint:
    """An open checkpoint. Tensors stay in the file until `read` is called."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._content = container.content
        if not isinstance(self._content, dict):
            raise OfficialCheckpointError(
                f"holds a {type(self._content).__name__}, expected a dict with a state dict"
            )

    @property
    def has_ema(self) -> bool:
        """Whether there is a second set of weights, the moving average."""
        return isinstance(self._content.get(_EMA), dict)

    def weights(self, *, ema: bool = False) -> dict[str, TensorRef]:
        """Key -> tensor of the state dict, in the order of the file.

        The state dict is `model` or `state_dict`, or the file is nothing else. The prefix that
        data-parallel training adds to all keys is taken off.

        Args:
            ema: take the moving average, `model_ema`.

        Raises:
            OfficialCheckpointError: there is none, or it holds something other than tensors.
        """
        state = self._content.get(_EMA) if ema else self._plain_state()
        if not isinstance(state, dict) or not state:
            raise OfficialCheckpointError(self._missing_state(ema=ema))
        for key, value in state.items():
            if not isinstance(key, str) or not isinstance(value, TensorRef):
                named = shown(key) if isinstance(key, str) else f"a {type(key).__name__}"
                raise OfficialCheckpointError(
                    f"{named} in the state dict is a {type(value).__name__}, expected a tensor"
                )
        if all(key.startswith(_PARALLEL_PREFIX) for key in state):
            return {key.removeprefix(_PARALLEL_PREFIX): ref for key, ref in state.items()}
        return dict(state)

    def _plain_state(self) -> Any:
        for name in _WEIGHTS:
            if isinstance(self._content.get(name), dict):
                return self._content[name]
        is_bare = any(isinstance(value, TensorRef) for value in self._content.values())
        return self._content if is_bare else None

    def _missing_state(self, *, ema: bool) -> str:
        found = ", ".join(shown(key) for key in self._content if isinstance(key, str))[:200]
        if ema:
            return (
                f"no {_EMA!r} in the file, found: {found}. (mmengine files hold the average in "
                "'state_dict' when it was switched on.)"
            )
        return f"no state dict 'model' or 'state_dict' in the file, found: {found}"

    def class_names(self) -> tuple[str, ...] | None:
        """The classes that mmengine files name in `meta.dataset_meta.classes`; else None."""
        meta = self._content.get("meta")
        facts = meta.get("dataset_meta") if isinstance(meta, dict) else None
        names = None
        if isinstance(facts, dict):
            # mmengine writes small letters, older tools capitals
            names = facts.get("classes", facts.get("CLASSES"))
        if not isinstance(names, tuple | list) or not names:
            return None
        if not all(isinstance(name, str) and name.isprintable() for name in names):
            return None
        # the published segmentation files have a class "bed "
        return tuple(name.strip() for name in names)

    def read(self, refs: Mapping[str, TensorRef]) -> dict[str, Tensor]:
        """Read tensors from the file, to the CPU whatever device they were saved from.

        Tensors of one storage share memory, as they did when they were saved.

        Raises:
            OfficialCheckpointError: a storage is missing, too short or damaged.
        """
        storages: dict[StorageRef, Tensor] = {}
        tensors: dict[str, Tensor] = {}
        for key, ref in refs.items():
            if ref.storage not in storages:
                storages[ref.storage] = self._read_storage(ref.storage)
            flat = storages[ref.storage]
            tensors[key] = (
                flat.as_strided(ref.shape, ref.stride, ref.offset)
                if ref.numel
                else flat.new_empty(ref.shape)
            )
        return tensors

    def _read_storage(self, ref: StorageRef) -> Tensor:
        data = self._container.read_storage(ref)
        if len(data) != ref.num_bytes:
            raise OfficialCheckpointError(
                f"storage {shown(ref.key)} has {len(data)} bytes, expected {ref.num_bytes}"
            )
        if not data:
            return torch.empty(0, dtype=ref.dtype)
        if self._container.byte_order != sys.byteorder:
            words = np.frombuffer(data, dtype=f"u{ref.dtype.itemsize}")
            words.byteswap(inplace=True)
        if ref.dtype == torch.bool:
            # any other byte in a bool tensor is undefined behaviour
            return torch.frombuffer(data, dtype=torch.uint8) != 0
        return torch.frombuffer(data, dtype=ref.dtype)


@contextmanager
def open_official(path: Path) -> Iterator[OfficialCheckpoint]:
    """Open a `.pth` file for reading.

    Raises:
        OfficialCheckpointError: as described there, with the path in front; also for every error
            raised while the file is open.
    """
    try:
        with path.open("rb") as file:
            yield OfficialCheckpoint(open_container(file))
    except OfficialCheckpointError as exc:
        raise OfficialCheckpointError(f"{path}: {exc}") from exc
    except OSError as exc:
        raise OfficialCheckpointError(f"{path}: {exc.strerror or exc}") from exc


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
