"""Tensors of the Open Inference Protocol: which ones there are, and their bytes.

Binary data is little-endian, row-major, without padding; an element of type BYTES is preceded by
its length in 4 bytes.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.config import TaskName
from service.errors import InvalidInferenceRequestError

_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model; -1 is a dimension of any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


IMAGE: Final = TensorSpec("image", "BYTES", (-1,))
PIXELS: Final = TensorSpec("pixels", "UINT8", (-1, -1, -1, 3))
INPUTS: Final = (IMAGE, PIXELS)
OUTPUTS: Final[Mapping[TaskName, tuple[TensorSpec, ...]]] = MappingProxyType(
    {
        TaskName.CLASSIFY: (
            TensorSpec("scores", "FP32", (-1, -1)),
            TensorSpec("class_ids", "INT64", (-1, -1)),
            TensorSpec("labels", "BYTES", (-1, -1)),
        ),
        TaskName.DETECT: (
            TensorSpec("num_detections", "INT32", (-1,)),
            TensorSpec("boxes", "FP32", (-1, -1, 4)),
            TensorSpec("scores", "FP32", (-1, -1)),
            TensorSpec("class_ids", "INT64", (-1, -1)),
            TensorSpec("labels", "BYTES", (-1, -1)),
            TensorSpec("masks", "BYTES", (-1, -1)),
            TensorSpec("image_sizes", "INT32", (-1, 2)),
        ),
        TaskName.SEGMENT: (TensorSpec("label_map", "UINT8", (-1, -1, -1)),),
    }
)
_DTYPES: Final[Mapping[str, str]] = MappingProxyType(
    {"UINT8": "u1", "INT32": "<i4", "INT64": "<i8", "FP32": "<f4"}
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """What is answered.

    Attributes:
        values: of `shape`; strings, row-major, where the datatype is BYTES.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: NDArray[Any] | Sequence[str]

    def to_bytes(self) -> bytes:
        """As binary data."""
        if isinstance(self.values, np.ndarray):
            return self.values.tobytes()
        encoded = (text.encode() for text in self.values)
        return b"".join(part for text in encoded for part in (_LENGTH.pack(len(text)), text))

    def to_json(self) -> NDArray[Any] | Sequence[str]:
        """The flat `data` of the JSON form; arrays as `orjson` writes them."""
        if isinstance(self.values, np.ndarray):
            return np.ascontiguousarray(self.values).reshape(-1)
        return self.values


def numbers(name: str, datatype: str, values: Any) -> Tensor:
    """A tensor of numbers from anything that has their shape."""
    array = np.asarray(values, dtype=_DTYPES[datatype])
    return Tensor(name, datatype, array.shape, array)


def texts(name: str, rows: Sequence[Sequence[str]], width: int) -> Tensor:
    """A (len(rows), width) tensor of type BYTES; short rows are filled up with empty strings."""
    filled = [text for row in rows for text in (*row, *[""] * (width - len(row)))]
    return Tensor(name, "BYTES", (len(rows), width), filled)


def split_bytes(data: memoryview, count: int) -> Iterator[bytes]:
    """The elements of a binary tensor of type BYTES.

    Raises:
        InvalidInferenceRequestError: not exactly `count` of them.
    """
    position = found = 0
    while position < len(data):
        if found == count:
            raise InvalidInferenceRequestError(
                f"input 'image' has more bytes than its {count} elements take"
            )
        start = position + _LENGTH.size
        if start > len(data):
            raise InvalidInferenceRequestError("input 'image' ends inside the length of an element")
        (length,) = _LENGTH.unpack_from(data, position)
        if start + length > len(data):
            raise InvalidInferenceRequestError(
                f"element {found} of input 'image' announces {length} bytes, "
                f"{len(data) - start} are left"
            )
        yield bytes(data[start : start + length])
        position, found = start + length, found + 1
    if found != count:
        raise InvalidInferenceRequestError(
            f"input 'image' has {found} elements, its shape says {count}"
        )
