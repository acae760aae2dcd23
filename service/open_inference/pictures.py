"""Input tensors -> pictures: encoded files, or pixels as they are. Pure functions."""

import binascii
import math
from base64 import b64decode
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.base import Picture
from service.errors import InvalidInferenceRequestError, TooManyImagesError
from service.open_inference.request import InferRequest, InputTensor
from service.open_inference.tensors import IMAGE, INPUTS, PIXELS, TensorSpec, split_bytes


def pictures_of(request: InferRequest, *, max_images: int) -> tuple[Picture, ...]:
    """The pictures of a request; pixels are views of its body.

    Raises:
        InvalidInferenceRequestError: not exactly one of the inputs, or one that is not as it says.
        TooManyImagesError: more than `max_images`.
    """
    names = [tensor.name for tensor in request.inputs]
    expected = " or ".join(repr(one.name) for one in INPUTS)
    if len(names) != 1 or names[0] not in (IMAGE.name, PIXELS.name):
        found = ", ".join(repr(name[:60]) for name in names)
        raise InvalidInferenceRequestError(f"found inputs {found}, expected one: {expected}")
    (tensor,) = request.inputs
    _check(tensor, IMAGE if tensor.name == IMAGE.name else PIXELS)
    if not tensor.shape[0]:
        raise InvalidInferenceRequestError(f"input {tensor.name!r} holds no picture")
    if tensor.shape[0] > max_images:
        raise TooManyImagesError(f"{tensor.shape[0]} pictures in one request, limit {max_images}")
    return _files(tensor) if tensor.name == IMAGE.name else tuple(_pixels(tensor))


def _check(tensor: InputTensor, spec: TensorSpec) -> None:
    if tensor.datatype != spec.datatype:
        raise InvalidInferenceRequestError(
            f"input {spec.name!r} has datatype {tensor.datatype[:20]!r}, expected {spec.datatype}"
        )
    fits = len(tensor.shape) == len(spec.shape) and all(
        wanted in (-1, found) for wanted, found in zip(spec.shape, tensor.shape, strict=False)
    )
    if not fits:
        raise InvalidInferenceRequestError(
            f"input {spec.name!r} has shape {list(tensor.shape)}, expected {list(spec.shape)} "
            "(-1: any size)"
        )


def _files(tensor: InputTensor) -> tuple[bytes, ...]:
    count = tensor.shape[0]
    if isinstance(tensor.data, memoryview):
        return tuple(split_bytes(tensor.data, count))
    if len(tensor.data) != count:
        raise InvalidInferenceRequestError(
            f"input 'image' has {len(tensor.data)} elements, its shape says {count}"
        )
    return tuple(_decode(element, index) for index, element in enumerate(tensor.data))


def _decode(element: Any, index: int) -> bytes:
    """JSON has text only, which no picture is: base64 of it."""
    if not isinstance(element, str):
        raise InvalidInferenceRequestError(f"element {index} of input 'image' is not a string")
    if element.startswith(("http://", "https://")):
        raise InvalidInferenceRequestError(
            f"element {index} of input 'image' is an address; pictures are not fetched"
        )
    try:
        return b64decode(element, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidInferenceRequestError(
            f"element {index} of input 'image' is not base64: {exc}; or send it as binary data"
        ) from exc


def _pixels(tensor: InputTensor) -> NDArray[np.uint8]:
    size = math.prod(tensor.shape)
    if not size:
        raise InvalidInferenceRequestError(f"pixels of shape {list(tensor.shape)} are no picture")
    if isinstance(tensor.data, memoryview):
        if len(tensor.data) != size:
            raise InvalidInferenceRequestError(
                f"input 'pixels' has {len(tensor.data)} bytes, "
                f"its shape {list(tensor.shape)} says {size}"
            )
        return np.frombuffer(tensor.data, np.uint8).reshape(tensor.shape)
    try:
        found = np.array(tensor.data)
    except (ValueError, OverflowError) as exc:
        raise InvalidInferenceRequestError("data of input 'pixels' is no regular array") from exc
    # flat or nested, both are allowed
    if found.shape not in ((size,), tensor.shape):
        raise InvalidInferenceRequestError(
            f"data of input 'pixels' has shape {list(found.shape)}, expected "
            f"{list(tensor.shape)} or all of its {size} values in one list"
        )
    if found.dtype.kind not in "iu" or found.min() < 0 or found.max() > 255:
        raise InvalidInferenceRequestError("data of input 'pixels' must be whole numbers 0..255")
    return found.astype(np.uint8).reshape(tensor.shape)
