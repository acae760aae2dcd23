"""Files that try to run something, or to break the reader: one clear line, and nothing ran."""

import builtins
import importlib
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.exporters.refusal import read_all, refused

WriteCheckpoint = Callable[..., Path]
HISTORY = b"cmmengine.logging.history_buffer\nHistoryBuffer\n"


class Call:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function, self.args = function, args

    def __call__(self) -> None:
        """Only so that pickle takes it for something that can be called."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.args


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that the hostile code would make."""
    return tmp_path / "canary"


HARM = {
    "os.system": lambda canary: Call(os.system, f"touch {canary}"),
    "eval": lambda canary: Call(eval, f"open({str(canary)!r}, 'w')"),
    "exec": lambda canary: Call(exec, f"open({str(canary)!r}, 'w').close()"),
    "open": lambda canary: Call(builtins.open, str(canary), "w"),
    "Popen": lambda canary: Call(subprocess.Popen, ["touch", str(canary)]),
    "getattr": lambda canary: Call(Call(getattr, canary, "touch")),
    "getattr chain": lambda canary: Call(
        Call(getattr, Call(importlib.import_module, "os"), "system"), f"touch {canary}"
    ),
    "in a list": lambda canary: [1, [Call(os.mkdir, str(canary))]],
    "as an argument": lambda canary: Call(OrderedDict, [("a", Call(os.mkdir, str(canary)))]),
}


def in_weights(harm: Any) -> Any:
    return {"model": {"a": torch.ones(2), "b": harm}}


def in_metadata(harm: Any) -> Any:
    state = OrderedDict(a=torch.ones(2))
    state._metadata = OrderedDict([("", harm)])  # type: ignore[attr-defined]
    return {"model": state}


def before_weights(harm: Any) -> Any:
    return {"config": harm, "model": {"a": torch.ones(2)}}


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("hide", [in_weights, in_metadata, before_weights])
@pytest.mark.parametrize("kind", HARM)
def test_code_is_refused_and_never_runs(
    tmp_path: Path, canary: Path, kind: str, hide: Callable[[Any], Any], is_zip: bool
) -> None:
    path = tmp_path / "hostile.pth"
    torch.save(hide(HARM[kind](canary)), path, _use_new_zipfile_serialization=is_zip)
    assert "which is not known as data" in refused(path) or "getattr" in refused(path)
    assert not canary.exists()


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_the_canary_sings_for_an_unrestricted_reader(
    tmp_path: Path, canary: Path, is_zip: bool
) -> None:
    path = tmp_path / "hostile.pth"
    harm = HARM["os.system"](canary)
    torch.save(before_weights(harm), path, _use_new_zipfile_serialization=is_zip)
    torch.load(path, weights_only=False)  # noqa: TID251 - proves that the file is hostile
    assert canary.exists()


def test_a_class_with_setstate_is_refused(write_pickle: WriteCheckpoint) -> None:
    body = b"\x80\x02cantigravity\nFly\n)\x81}X\x01\x00\x00\x00ak\x01sb."
    assert refused(write_pickle(body)) == (
        "the pickle names antigravity.Fly, which is not known as data"
    )
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"cposix\nsystem\n(X\x04\x00\x00\x00truetR.", "posix.system"),
        (b"c__builtin__\neval\n(X\x01\x00\x00\x001tR.", "builtins.eval"),
        (b"\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"\x8c\x0bcollections\x8c\x15OrderedDict.__class__\x93.", "OrderedDict.__class__"),
        (b"\x8c\x05torch\x8c\x0bload.system\x93.", "torch.load.system"),
        (b"ctorch\nload\n.", "torch.load"),
        (b"ctorch.jit\nload\n.", "torch.jit.load"),
        (b"ctorch.storage\n_load_from_bytes\n.", "torch.storage._load_from_bytes"),
        (b"cnumpy\nload\n.", "numpy.load"),
        (b"cnumpy.core.multiarray\nfromfile\n.", "numpy.core.multiarray.fromfile"),
        (b"cfunctools\npartial\n.", "functools.partial"),
        (b"coperator\nattrgetter\n.", "operator.attrgetter"),
        (b"(X\x04\x00\x00\x00trueios\nsystem\n.", "os.system"),
        (b"(cos\nsystem\nX\x04\x00\x00\x00trueo.", "os.system"),
        (b"ctorch\n\x1b[31m\n.", r"torch.\x1b[31m"),
    ],
)
def test_unknown_names_are_refused_by_name(
    write_pickle: WriteCheckpoint, body: bytes, named: str
) -> None:
    message = refused(write_pickle(b"\x80\x04" + body))
    assert named in message
    assert message.endswith("which is not known as data")
    assert message.isprintable()


@pytest.mark.parametrize(
    "body",
    [
        # popitem of OrderedDict
        b"c__builtin__\ngetattr\nccollections\nOrderedDict\nX\x07\x00\x00\x00popitem\x86R.",
        # __init__ of HistoryBuffer
        b"c__builtin__\ngetattr\n" + HISTORY + b"X\x08\x00\x00\x00__init__\x86R.",
        # globals of the method mean
        b"c__builtin__\ngetattr\nc__builtin__\ngetattr\n"
        + HISTORY
        + b"X\x04\x00\x00\x00mean\x86RX\x07\x00\x00\x00globals\x86R.",
        # no name at all
        b"c__builtin__\ngetattr\n" + HISTORY + b"\x85R.",
    ],
)
def test_getattr_is_only_known_for_the_methods_of_histories(
    write_pickle: WriteCheckpoint, body: bytes
) -> None:
    assert "by builtins.getattr, which is only known" in refused(write_pickle(b"\x80\x02" + body))


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        # the method mean, called
        (
            b"c__builtin__\ngetattr\n" + HISTORY + b"X\x04\x00\x00\x00mean\x86R)R.",
            "the pickle calls a Inert",
        ),
        (b"X\x01\x00\x00\x00a)R.", "the pickle calls a str"),
        (b"ccollections\nOrderedDict\nK\x01R.", "with a int, expected a tuple"),
        (b"ctorch\nFloatStorage\n)R.", "torch.FloatStorage, which is no function"),
        (b"ccollections\nOrderedDict\n}b.", "sets attributes of a Global"),
        (b"ccollections\nOrderedDict\n(K\x01K\x02u.", "sets items of a Global"),
        (b"ccollections\nOrderedDict\nK\x01a.", "appends to a Global"),
        (b"\x82\x01.", "opcode EXT1"),
        (b"P1\n.", "opcode PERSID"),
        (b"\x97.", "opcode NEXT_BUFFER"),
        (b"}(](K\x01eK\x01u.", "a dict key of the pickle is a list"),
        (b"K\x01\x93.", "takes more values than it has"),
        (b"K\x01K\x01\x93.", "by something other than text"),
        (b"h\x05.", "damaged pickle: KeyError"),
        (b"}", "damaged pickle: ValueError"),
        (b".", "takes more values than it has"),
        (b"I" + b"9" * 5000 + b"\n.", "damaged pickle: ValueError"),
        (b"\xff.", "damaged pickle: ValueError"),
        (b"X\xff\xff\xff\x7fa.", "damaged pickle: ValueError"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fa.", "damaged pickle: "),
    ],
)
def test_senseless_opcodes_are_refused(
    write_pickle: WriteCheckpoint, body: bytes, problem: str
) -> None:
    assert problem in refused(write_pickle(b"\x80\x04" + body))


STORAGE = b"X\x07\x00\x00\x00storage"
FLOATS = b"ctorch\nFloatStorage\n"


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def number(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(number(value) for value in values) + b"t"


def persistent_id(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"tQ"


def weights(storage: bytes, offset: bytes, shape: bytes, stride: bytes) -> bytes:
    """Pickle of `{"model": {"a": a tensor}}`."""
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + stride
    return b"\x80\x02}" + text("model") + b"}" + text("a") + tensor + b"\x89)tRss."


FOUR = persistent_id(STORAGE, FLOATS, text("0"), text("cpu"), number(4))
FOUR_FLOATS = {"0": bytes(16)}


@pytest.mark.parametrize(
    "storage",
    [
        text("storage") + b"Q",
        b"NQ",
        number(3) + b"Q",
        b"]Q",
        persistent_id(),
        persistent_id(STORAGE),
        persistent_id(text("module"), FLOATS, text("0"), text("cpu"), number(4)),
        persistent_id(STORAGE, text("FloatStorage"), text("0"), text("cpu"), number(4)),
        persistent_id(STORAGE, b"ccollections\nOrderedDict\n", text("0"), text("cpu"), number(4)),
        persistent_id(STORAGE, FLOATS, number(0), text("cpu"), number(4)),
        persistent_id(STORAGE, FLOATS, text("0"), b"N", number(4)),
        persistent_id(STORAGE, FLOATS, text("0"), text("cpu"), number(-4)),
        persistent_id(STORAGE, FLOATS, text("0"), text("cpu"), number(1 << 60)),
        persistent_id(STORAGE, FLOATS, text("0"), text("cpu"), b"\x88"),
        persistent_id(STORAGE, FLOATS, text("0"), text("cpu"), number(4), text("view")),
        persistent_id(STORAGE, FLOATS, text("../0"), text("cpu"), number(4)),
        b"(K\x01tQ",
    ],
)
def test_odd_persistent_ids_are_refused(write_pickle: WriteCheckpoint, storage: bytes) -> None:
    body = weights(storage, number(0), numbers(4), numbers(1))
    assert "storage" in refused(write_pickle(body, FOUR_FLOATS))


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (1, (4,), (1,)),
        (0, (5,), (1,)),
        (0, (2, 2), (4, 1)),
        (0, (1 << 40, 1 << 40), (0, 0)),
        (0, (5,), (0,)),
        (0, (2, 2), (1,)),
        (0, (-1,), (1,)),
        (0, (4,), (-1,)),
        (-1, (4,), (1,)),
        (1 << 50, (0,), (1,)),
        (0, (1,) * 17, (1,) * 17),
    ],
)
def test_tensors_outside_their_storage_are_refused(
    write_pickle: WriteCheckpoint, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    body = weights(FOUR, number(offset), numbers(*shape), numbers(*stride))
    assert "tensor" in refused(write_pickle(body, FOUR_FLOATS))


def test_the_same_writer_makes_files_that_are_read(write_pickle: WriteCheckpoint) -> None:
    read_all(write_pickle(weights(FOUR, number(0), numbers(2, 2), numbers(2, 1)), FOUR_FLOATS))


def test_a_name_hidden_in_backward_hooks_is_refused(write_pickle: WriteCheckpoint) -> None:
    hooks = b"ccollections\nOrderedDict\n)R}X\x01\x00\x00\x00acos\nsystem\nsb"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + FOUR + number(0) + numbers(4) + numbers(1)
    body = b"\x80\x02}" + text("a") + tensor + b"\x89" + hooks + b"tRs."
    assert "names os.system" in refused(write_pickle(body, FOUR_FLOATS))


def test_missing_and_short_storages_are_refused(write_pickle: WriteCheckpoint) -> None:
    body = weights(FOUR, number(0), numbers(4), numbers(1))
    assert "storage 0 is missing" in refused(write_pickle(body, {}))
    assert "storage 0 has" in refused(write_pickle(body, {"0": bytes(12)}))


def test_a_storage_of_two_types_is_refused(write_pickle: WriteCheckpoint) -> None:
    other = persistent_id(STORAGE, b"ctorch\nDoubleStorage\n", text("0"), text("cpu"), number(2))
    body = b"\x80\x02(" + FOUR + other + b"t."
    assert "storage 0 is described twice" in refused(write_pickle(body, FOUR_FLOATS))


@pytest.mark.parametrize(
    "body",
    [
        b"]q\x00h\x00a.",
        b"}q\x00X\x01\x00\x00\x00ah\x00s.",
        b"(" * 200_000 + b"t" * 200_000 + b".",
        b")" + b"\x85" * 500_000 + b".",
        b"]" + b"".join(b"q\x00h\x00h\x00\x86" for _ in range(1000)) + b".",
    ],
    ids=["list in itself", "dict in itself", "deep marks", "deep tuples", "doubling"],
)
def test_cycles_and_depth_do_no_harm(write_pickle: WriteCheckpoint, body: bytes) -> None:
    assert refused(write_pickle(b"\x80\x02" + body))


def test_a_deep_tuple_is_no_dict_key(write_pickle: WriteCheckpoint) -> None:
    body = b"\x80\x02})" + b"\x85" * 500_000 + b"K\x01s."
    assert "a dict key of the pickle is a tuple" in refused(write_pickle(body))


def test_too_many_opcodes_are_refused(
    write_pickle: WriteCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporters.inert_pickle.MAX_OPCODES", 100)
    assert refused(write_pickle(b"\x80\x02" + b"N0" * 60 + b"N.")) == (
        "the pickle has over 100 opcodes"
    )
