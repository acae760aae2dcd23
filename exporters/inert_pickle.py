"""Reads a checkpoint's pickle as data: a small pickle machine that never imports and never calls.

`pickle.Unpickler` resolves names and calls what it finds, so every name let through is code that
runs with arguments of the file's choice. This machine interprets the opcodes itself: a global
stays a name, a call becomes the description of a tensor or an inert stand-in. Nothing recurses
over the content, so neither nesting nor cycles matter.
"""

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, Final, cast

from exporters.errors import OfficialCheckpointError
from exporters.inert_objects import (
    Inert,
    StorageRef,
    described_call,
    known_global,
    plain_key,
    shown,
    storage_ref,
)

# a long training with all its metrics and optimizer states stays below one million
MAX_OPCODES: Final = 20_000_000
_MAX_LINE: Final = 1 << 16

_CONSTANTS: Final = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE"),
        *("BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)


class BoundedReader:
    """File-like view that never reads, and so never allocates, beyond the end of the file."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, max(self._size - self._file.tell(), 0)))

    def readline(self) -> bytes:
        return self._file.readline(_MAX_LINE)

    def tell(self) -> int:
        return self._file.tell()


@dataclass(frozen=True, slots=True)
class InertPickle:
    """One pickle, read as data.

    Attributes:
        content: None, bool, int, float, str, bytes, tuple, list, dict, `TensorRef`, `StorageRef`,
            `Global` or `Inert`, nested. Ordered dicts come as dicts, without their attributes.
        storages: every storage that the pickle mentions, by key.
    """

    content: Any
    storages: Mapping[str, StorageRef]


def read_inert_pickle(reader: BoundedReader) -> InertPickle:
    """Interpret one pickle, from the position of `reader` to its STOP opcode.

    Raises:
        OfficialCheckpointError: a name that is not known as data, a tensor outside its storage,
            or a damaged pickle.
    """
    try:
        machine = _Machine()
        return InertPickle(machine.run(reader), machine.storages)
    except OfficialCheckpointError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error) as exc:
        raise OfficialCheckpointError(f"damaged pickle: {type(exc).__name__}: {exc}") from exc


class _Machine:
    """Stack, marks and memo of one pickle."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self.storages: dict[str, StorageRef] = {}
        self._actions: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys(_CONSTANTS, self._push),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._put),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), self._get),
            **dict.fromkeys(("PROTO", "FRAME"), lambda arg: None),
            "NONE": lambda arg: self._push(None),
            "NEWTRUE": lambda arg: self._push(True),
            "NEWFALSE": lambda arg: self._push(False),
            "EMPTY_TUPLE": lambda arg: self._push(()),
            "EMPTY_LIST": lambda arg: self._push([]),
            "EMPTY_DICT": lambda arg: self._push({}),
            "EMPTY_SET": lambda arg: self._push(Inert("builtins.set")),
            "MARK": lambda arg: self._marks.append(len(self._stack)),
            "POP": self._pop_top,
            "POP_MARK": self._drop_marked,
            "DUP": lambda arg: self._push(self._stack[-1]),
            "MEMOIZE": lambda arg: self._put(len(self._memo)),
            "TUPLE": lambda arg: self._push(tuple(self._pop_mark())),
            "TUPLE1": lambda arg: self._push(tuple(self._pop(1))),
            "TUPLE2": lambda arg: self._push(tuple(self._pop(2))),
            "TUPLE3": lambda arg: self._push(tuple(self._pop(3))),
            "LIST": lambda arg: self._push(self._pop_mark()),
            "DICT": self._dict,
            "FROZENSET": self._frozenset,
            "APPEND": lambda arg: self._append(self._pop(1)),
            "APPENDS": lambda arg: self._append(self._pop_mark()),
            "ADDITEMS": lambda arg: self._append(self._pop_mark()),
            "SETITEM": lambda arg: self._set_items(self._pop(2)),
            "SETITEMS": lambda arg: self._set_items(self._pop_mark()),
            "GLOBAL": self._global,
            "STACK_GLOBAL": self._stack_global,
            "INST": self._inst,
            "OBJ": self._obj,
            "NEWOBJ": self._call,
            "NEWOBJ_EX": self._call_with_keywords,
            "REDUCE": self._call,
            "BUILD": self._build,
            "BINPERSID": self._storage,
        }

    def run(self, reader: BoundedReader) -> Any:
        opcodes = pickletools.genops(cast(IO[bytes], reader))
        for count, (opcode, arg, _) in enumerate(opcodes):
            if opcode.name == "STOP":
                return self._pop(1)[0]
            if count >= MAX_OPCODES:
                raise OfficialCheckpointError(f"the pickle has over {MAX_OPCODES} opcodes")
            action = self._actions.get(opcode.name)
            if action is None:
                raise OfficialCheckpointError(
                    f"the pickle uses the opcode {opcode.name}, which no checkpoint needs"
                )
            action(arg)
        raise OfficialCheckpointError("damaged pickle: it ends without STOP")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self, count: int) -> list[Any]:
        """The last `count` values; those below the last mark are out of reach."""
        floor = self._marks[-1] if self._marks else 0
        start = len(self._stack) - count
        if start < floor:
            raise OfficialCheckpointError("damaged pickle: it takes more values than it has")
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _pop_mark(self) -> list[Any]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _drop_marked(self, arg: object) -> None:
        self._pop_mark()

    def _pop_top(self, arg: object) -> None:
        # like pickle: POP also takes a mark that is on top
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop(1)

    def _put(self, number: Any) -> None:
        self._memo[int(number)] = self._stack[-1]

    def _get(self, number: Any) -> None:
        self._push(self._memo[int(number)])

    def _dict(self, arg: object) -> None:
        items = self._pop_mark()
        self._push({})
        self._set_items(items)

    def _frozenset(self, arg: object) -> None:
        self._pop_mark()
        self._push(Inert("builtins.frozenset"))

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Inert):
            raise OfficialCheckpointError(f"the pickle appends to a {type(target).__name__}")

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, dict):
            keys = (plain_key(key) for key in items[::2])
            target.update(zip(keys, items[1::2], strict=True))
        elif not isinstance(target, Inert):
            raise OfficialCheckpointError(f"the pickle sets items of a {type(target).__name__}")

    def _global(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        self._push(known_global(module, name))

    def _stack_global(self, arg: object) -> None:
        module, name = self._pop(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise OfficialCheckpointError("the pickle names a global by something other than text")
        self._push(known_global(module, name))

    def _inst(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        args = tuple(self._pop_mark())
        self._push(described_call(known_global(module, name), args))

    def _obj(self, arg: object) -> None:
        callee, *args = self._pop_mark()
        self._push(described_call(callee, tuple(args)))

    def _call(self, arg: object) -> None:
        callee, args = self._pop(2)
        self._push(described_call(callee, args))

    def _call_with_keywords(self, arg: object) -> None:
        callee, args, _ = self._pop(3)
        self._push(described_call(callee, args))

    def _build(self, arg: object) -> None:
        self._pop(1)
        target = self._stack[-1]
        # attributes: an ordered dict's `_metadata`, the content of stand-ins; none are needed
        if not isinstance(target, dict | Inert):
            raise OfficialCheckpointError(
                f"the pickle sets attributes of a {type(target).__name__}"
            )

    def _storage(self, arg: object) -> None:
        ref = storage_ref(self._pop(1)[0])
        known = self.storages.setdefault(ref.key, ref)
        if known != ref:
            raise OfficialCheckpointError(
                f"storage {shown(ref.key)} is described twice: {known.numel} x {known.dtype} and "
                f"{ref.numel} x {ref.dtype}"
            )
        self._push(known)
