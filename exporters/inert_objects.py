"""What the names inside a checkpoint's pickle stand for: descriptions of tensors, or nothing.

No name is ever resolved. A name outside the lists below ends the reading.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import torch

from exporters.errors import OfficialCheckpointError

MAX_DIMS: Final = 16
MAX_EXTENT: Final = 1 << 48

_STORAGE_DTYPES: Final = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_REBUILD_TENSOR: Final = frozenset(
    {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
)
_REBUILD_PARAMETER: Final = frozenset(
    {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
)
_ORDERED_DICT: Final = "collections.OrderedDict"
_SIZE: Final = "torch.Size"
# Genuine files hold references to methods of this one class.
_GETATTR: Final = "builtins.getattr"
_GETATTR_OWNER: Final = "mmengine.logging.history_buffer.HistoryBuffer"
# Configurations, histories and numbers; whatever is built of them is thrown away.
_DATA: Final = frozenset(
    {
        "_codecs.encode",
        "addict.addict.Dict",
        "argparse.Namespace",
        "builtins.bytearray",
        "builtins.complex",
        "builtins.dict",
        "builtins.frozenset",
        "builtins.list",
        "builtins.object",
        "builtins.set",
        "builtins.tuple",
        "collections.Counter",
        "collections.defaultdict",
        "collections.deque",
        "copyreg._reconstructor",
        "datetime.datetime",
        "datetime.timedelta",
        "mmcv.utils.config.ConfigDict",
        "mmengine.config.config.ConfigDict",
        _GETATTR_OWNER,
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy.bool_",
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy.dtype",
        "numpy.float32",
        "numpy.float64",
        "numpy.int64",
        "numpy.ndarray",
        "pathlib.PosixPath",
        "pathlib.PurePosixPath",
        "pathlib.WindowsPath",
        "torch.bfloat16",
        "torch.device",
        "torch.float16",
        "torch.float32",
        "torch.float64",
        "torch.int64",
        "yacs.config.CfgNode",
    }
)
_KNOWN: Final = (
    _DATA
    | _REBUILD_TENSOR
    | _REBUILD_PARAMETER
    | _STORAGE_DTYPES.keys()
    | {_ORDERED_DICT, _SIZE, _GETATTR}
)
# what protocol 2 writes for modules that have moved since Python 2
_RENAMED_MODULES: Final = {"__builtin__": "builtins", "copy_reg": "copyreg"}


@dataclass(frozen=True, slots=True)
class Global:
    """A known name, dotted; never resolved."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Inert:
    """Stands for an object of a known data class, without its content."""

    origin: str


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A storage in the file.

    Attributes:
        key: its name inside the file.
        numel: number of elements.
    """

    key: str
    dtype: torch.dtype
    numel: int

    @property
    def num_bytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class TensorRef:
    """A tensor in the file that lies inside its storage; offset and strides in elements."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def known_global(module: str, name: str) -> Global:
    """The name as data.

    Raises:
        OfficialCheckpointError: it is not known as data.
    """
    dotted = f"{_RENAMED_MODULES.get(module, module)}.{name}"
    if dotted not in _KNOWN:
        raise OfficialCheckpointError(
            f"the pickle names {shown(dotted)}, which is not known as data"
        )
    return Global(dotted)


def shown(text: str) -> str:
    """Text of the file, short and fit for one line of a terminal."""
    short = text[:120]
    return short if short.isprintable() else repr(short)


def described_call(callee: object, args: object) -> Any:
    """What the pickle's `callee(*args)` stands for. Nothing is called.

    Raises:
        OfficialCheckpointError: the callee is no known name, or the arguments are not of the
            kind that genuine files hold.
    """
    if not isinstance(callee, Global):
        raise OfficialCheckpointError(
            f"the pickle calls a {type(callee).__name__}, expected a known name"
        )
    if not isinstance(args, tuple):
        raise OfficialCheckpointError(
            f"the pickle calls {callee.name} with a {type(args).__name__}, expected a tuple"
        )
    if callee.name in _REBUILD_TENSOR:
        return _tensor_ref(args)
    if callee.name in _REBUILD_PARAMETER:
        if not args or not isinstance(args[0], TensorRef):
            raise OfficialCheckpointError("a parameter of the pickle holds no tensor")
        return args[0]
    if callee.name == _ORDERED_DICT:
        return _ordered_dict(args)
    if callee.name == _SIZE:
        return _extents(args[0] if args else (), "torch.Size")
    if callee.name == _GETATTR:
        return _method_reference(args)
    if callee.name in _DATA:
        return Inert(callee.name)
    raise OfficialCheckpointError(f"the pickle calls {callee.name}, which is no function")


def storage_ref(persistent_id: object) -> StorageRef:
    """The storage that a persistent id stands for.

    Args:
        persistent_id: `("storage", type, key, device tag, numel)`, in files of the old format
            with a sixth item that describes a view and is None in all but the oldest.

    Raises:
        OfficialCheckpointError: anything else.
    """
    if not isinstance(persistent_id, tuple) or len(persistent_id) not in (5, 6):
        raise OfficialCheckpointError(
            f"a persistent id is a {type(persistent_id).__name__}, expected a storage tuple"
        )
    kind, storage_type, key, device, numel = persistent_id[:5]
    if kind != "storage" or not isinstance(key, str) or not isinstance(device, str):
        raise OfficialCheckpointError("a persistent id does not describe a storage")
    dtype = _STORAGE_DTYPES.get(storage_type.name) if isinstance(storage_type, Global) else None
    if dtype is None:
        found = storage_type.name if isinstance(storage_type, Global) else "no name"
        raise OfficialCheckpointError(f"a storage has the type {found}, expected torch.*Storage")
    if len(persistent_id) == 6 and persistent_id[5] is not None:
        raise OfficialCheckpointError(f"storage {shown(key)} is a view, which is not supported")
    return StorageRef(key, dtype, _extent(numel, "the size of a storage"))


def _extent(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_EXTENT:
        # only numbers are safe to print: the text of nested content has no bound
        found = f"{value:.4g}" if isinstance(value, int) else f"a {type(value).__name__}"
        raise OfficialCheckpointError(f"{what} is {found}, expected 0..2^48")
    return value


def _extents(values: object, what: str) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > MAX_DIMS:
        raise OfficialCheckpointError(f"{what} is no list of at most {MAX_DIMS} numbers")
    return tuple(_extent(value, what) for value in values)


def _tensor_ref(args: tuple[Any, ...]) -> TensorRef:
    if len(args) < 4 or not isinstance(args[0], StorageRef):
        raise OfficialCheckpointError("a tensor of the pickle has no storage")
    ref = TensorRef(
        storage=args[0],
        offset=_extent(args[1], "the offset of a tensor"),
        shape=_extents(args[2], "the shape of a tensor"),
        stride=_extents(args[3], "the stride of a tensor"),
    )
    if len(ref.shape) != len(ref.stride):
        raise OfficialCheckpointError(
            f"a tensor has shape {ref.shape} and stride {ref.stride}, expected equal lengths"
        )
    steps = zip(ref.shape, ref.stride, strict=True)
    last = ref.offset + sum((size - 1) * step for size, step in steps)
    # more elements than the storage has would be a bomb: strides of 0 make any size from one
    if ref.numel and (last >= ref.storage.numel or ref.numel > ref.storage.numel):
        raise OfficialCheckpointError(
            f"a tensor of shape {ref.shape}, stride {ref.stride} and offset {ref.offset} does not "
            f"fit into storage {shown(ref.storage.key)} of {ref.storage.numel} elements"
        )
    return ref


def _ordered_dict(args: tuple[Any, ...]) -> dict[Any, Any]:
    content: dict[Any, Any] = {}
    pairs = args[0] if args else ()
    if not isinstance(pairs, tuple | list):
        raise OfficialCheckpointError("an ordered dict of the pickle is made of no list of pairs")
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise OfficialCheckpointError("an ordered dict of the pickle holds no pair")
        content[plain_key(pair[0])] = pair[1]
    return content


def plain_key(key: object) -> object:
    """A dict key that is safe to hash: a scalar, or a flat tuple of scalars.

    Raises:
        OfficialCheckpointError: something else. (Hashing deep tuples exhausts the C stack.)
    """
    parts = key if isinstance(key, tuple) else (key,)
    if all(part is None or isinstance(part, str | bytes | int | float) for part in parts):
        return key
    raise OfficialCheckpointError(f"a dict key of the pickle is a {type(key).__name__}")


def _method_reference(args: tuple[Any, ...]) -> Inert:
    is_method = (
        len(args) == 2
        and args[0] == Global(_GETATTR_OWNER)
        and isinstance(args[1], str)
        and args[1].isidentifier()
        and not args[1].startswith("_")
    )
    if not is_method:
        owner = args[0].name if args and isinstance(args[0], Global) else "another object"
        raise OfficialCheckpointError(
            f"the pickle takes an attribute of {owner} by builtins.getattr, which is only known "
            f"for methods of {_GETATTR_OWNER}"
        )
    return Inert(_GETATTR)
