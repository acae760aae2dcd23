"""The body of an infer request: JSON, perhaps followed by binary tensors. Pure functions."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from service.errors import InvalidInferenceRequestError, MalformedBodyError
from service.json_values import load_json

# a photograph of a megapixel as JSON; more would take hundreds of megabytes to parse
MAX_JSON_VALUES: Final = 3_000_000
_HINT: Final = "; send large tensors as binary data"
_MAX_ID: Final = 1000
_MAX_INT: Final = 2**63 - 1
_LENGTH: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_SHARED_MEMORY: Final = "shared_memory"


@dataclass(frozen=True, slots=True)
class InputTensor:
    """One input as it was sent.

    Attributes:
        data: binary, or the JSON list.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: memoryview | list[Any]


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """One output as it was asked for.

    Attributes:
        binary: as binary data; None: as the request says for all.
        classes: so many best classes as text instead of the tensor; 0: the tensor.
    """

    name: str
    binary: bool | None = None
    classes: int = 0


@dataclass(frozen=True, slots=True)
class InferRequest:
    """An infer request.

    Attributes:
        inputs: empty when the body is the picture.
        outputs: wanted; empty: all.
        parameters: without those of the binary extension.
        binary: outputs come as binary data unless they say otherwise.
    """

    inputs: tuple[InputTensor, ...]
    outputs: tuple[WantedOutput, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    request_id: str | None = None
    binary: bool = False


# Triton's raw binary request: the body is the one element of the one input
RAW: Final = InferRequest(inputs=(), binary=True)


def parse_request(data: bytes, header_length: str | None) -> InferRequest:
    """Read a body.

    Args:
        header_length: `Inference-Header-Content-Length`, the bytes of JSON in front of the binary
            data; None: all of it is JSON.

    Raises:
        MalformedBodyError: not JSON, or not as long as it says.
        InvalidInferenceRequestError: JSON that is no infer request.
    """
    end = _json_end(data, header_length)
    if end == 0 and header_length is not None:
        return RAW
    content = load_json(data, max_values=MAX_JSON_VALUES, end=end, hint=_HINT)
    if not isinstance(content, dict):
        raise InvalidInferenceRequestError('expected {"inputs": [...]}')
    parameters = _object(content.get("parameters"), "parameters")
    return InferRequest(
        inputs=tuple(_inputs(content.get("inputs"), memoryview(data)[end:])),
        outputs=tuple(_outputs(content.get("outputs"))),
        binary=_flag(parameters.pop("binary_data_output", None), "binary_data_output") or False,
        parameters=parameters,
        request_id=_request_id(content.get("id")),
    )


def _json_end(data: bytes, header_length: str | None) -> int:
    if header_length is None:
        return len(data)
    if not _LENGTH.fullmatch(header_length):
        raise MalformedBodyError(f"Inference-Header-Content-Length is {header_length[:40]!r}")
    end = int(header_length)
    if end > len(data):
        raise MalformedBodyError(
            f"Inference-Header-Content-Length is {end}, the body has {len(data)} bytes"
        )
    return end


def _inputs(found: Any, binary: memoryview) -> Iterator[InputTensor]:
    entries = _objects(found, "inputs")
    if not entries:
        raise InvalidInferenceRequestError("inputs is empty, expected one of image and pixels")
    names = _names(entries, "inputs")
    for name, entry in zip(names, entries, strict=True):
        parameters = _object(entry.get("parameters"), f"parameters of input {name!r}")
        size = parameters.pop("binary_data_size", None)
        _refuse_unknown(parameters, f"input {name!r}")
        data: memoryview | list[Any]
        if size is None:
            data = _list(entry.get("data"), f"data of input {name!r}")
        else:
            data = _cut(binary, size, name)
            binary = binary[len(data) :]
            if "data" in entry:
                raise InvalidInferenceRequestError(f"input {name!r} has data of both kinds")
        datatype = _text(entry.get("datatype"), f"datatype of input {name!r}")
        yield InputTensor(name, datatype, _shape(entry.get("shape"), name), data)
    if len(binary):
        raise InvalidInferenceRequestError(
            f"{len(binary)} bytes of binary data belong to no input; see binary_data_size"
        )


def _cut(binary: memoryview, size: Any, name: str) -> memoryview:
    if type(size) is not int or size < 0:
        raise InvalidInferenceRequestError(
            f"binary_data_size of input {name!r} is {_shown(size)}, expected a number of bytes"
        )
    if size > len(binary):
        raise InvalidInferenceRequestError(
            f"binary_data_size of input {name!r} is {size}, {len(binary)} bytes are left; "
            "is Inference-Header-Content-Length right?"
        )
    return binary[:size]


def _outputs(found: Any) -> Iterator[WantedOutput]:
    entries = _objects(found, "outputs") if found is not None else []
    for name, entry in zip(_names(entries, "outputs"), entries, strict=True):
        parameters = _object(entry.get("parameters"), f"parameters of output {name!r}")
        binary = _flag(parameters.pop("binary_data", None), f"binary_data of output {name!r}")
        classes = parameters.pop("classification", 0)
        if type(classes) is not int or classes < 0:
            raise InvalidInferenceRequestError(
                f"classification of output {name!r} is {_shown(classes)}, expected a number"
            )
        _refuse_unknown(parameters, f"output {name!r}")
        yield WantedOutput(name, binary, classes)


def _refuse_unknown(parameters: Mapping[str, Any], where: str) -> None:
    unknown = sorted(parameters)
    if any(name.startswith(_SHARED_MEMORY) for name in unknown):
        raise InvalidInferenceRequestError(f"{where}: shared memory is not offered")
    if unknown:
        raise InvalidInferenceRequestError(f"{where}: unknown parameter {unknown[0][:60]!r}")


def _names(entries: Sequence[dict[str, Any]], where: str) -> list[str]:
    names = [_text(entry.get("name"), f"name in {where}") for entry in entries]
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise InvalidInferenceRequestError(f"{where} lists {twice!r} twice")
    return names


def _shape(found: Any, name: str) -> tuple[int, ...]:
    sides = _list(found, f"shape of input {name!r}")
    if len(sides) > 8 or any(type(side) is not int or not 0 <= side <= _MAX_INT for side in sides):
        raise InvalidInferenceRequestError(
            f"shape of input {name!r} is {_shown(found)}, expected a few whole numbers"
        )
    return tuple(sides)


def _request_id(found: Any) -> str | None:
    if found is None:
        return None
    if len(_text(found, "id")) > _MAX_ID:
        raise InvalidInferenceRequestError(f"id has more than {_MAX_ID} characters")
    return str(found)


def _objects(found: Any, where: str) -> list[dict[str, Any]]:
    entries = _list(found, where)
    # the model has two inputs and a handful of outputs
    if len(entries) > 16 or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidInferenceRequestError(f"{where} must be a short list of objects")
    return entries


def _object(found: Any, where: str) -> dict[str, Any]:
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidInferenceRequestError(f"{where} is {_shown(found)}, expected an object")
    return dict(found)


def _list(found: Any, where: str) -> list[Any]:
    if not isinstance(found, list):
        raise InvalidInferenceRequestError(f"{where} is {_shown(found)}, expected a list")
    return found


def _text(found: Any, where: str) -> str:
    if not isinstance(found, str):
        raise InvalidInferenceRequestError(f"{where} is {_shown(found)}, expected a string")
    return found


def _flag(found: Any, where: str) -> bool | None:
    if found is not None and not isinstance(found, bool):
        raise InvalidInferenceRequestError(f"{where} is {_shown(found)}, expected true or false")
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "missing"
    return repr(value)[:60] if isinstance(value, str | int | float | bool) else _kind(value)


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else "an object"
