"""CUDA C++ kernels, compiled when they are first used by the compiler library that PyTorch brings.

Nothing has to be installed for them: NVRTC and its bindings (`cuda-bindings`) are what PyTorch's
CUDA builds depend on. A kernel's numbers of channels and the like are compiled in.
"""

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from kernels.cubin_cache import compiled_once, is_compiled
from kernels.dependent_launch import is_supported
from kernels.device import describe_device

try:
    from cuda.bindings import driver, nvrtc
except ImportError:  # a build of PyTorch for the CPU
    driver = nvrtc = None


# headers of several kernels
_SHARED: Final = Path(__file__).parent
HALVES: Final = (torch.float16, torch.bfloat16)
_PERCENT: Final = 100


class CudaError(RuntimeError):
    """A call into CUDA failed; said in torch's words, by which the service knows such errors."""


@functools.cache
def is_available() -> bool:
    """Whether kernels can be compiled here."""
    if nvrtc is None:
        return False
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError:  # the bindings without the library
        return False
    return True


def can_serve(x: torch.Tensor) -> bool:
    """Whether any of the kernels could: half precision, on a GPU, with a compiler at hand."""
    return x.is_cuda and is_available() and x.dtype in HALVES


def compile_source(source: Path, defines: Sequence[tuple[str, int]], architecture: str) -> bytes:
    """Machine code of a source file.

    Args:
        source: it may include headers of its folder and of this one.
        defines: macros of the source, compiled in.
        architecture: for example `sm_90`.

    Raises:
        CudaError: it does not compile; the message is the compiler's.
    """
    options = _options(defines, architecture)
    return compiled_once(
        _everything_read(source),
        options,
        lambda: _compile(source, [*options, f"-I{source.parent}", f"-I{_SHARED}"]),
    )


def is_kept(source: Path, defines: Sequence[tuple[str, int]], architecture: str) -> bool:
    """Whether `compile_source` would find its machine code on disk."""
    return is_compiled(_everything_read(source), _options(defines, architecture))


def architecture_of(capability: tuple[int, int]) -> str:
    """What a device of this compute capability runs, for `compile_source`."""
    major, minor = capability
    # the instructions of Hopper alone hide behind the a
    return f"sm_{major}{minor}{'a' if capability == (9, 0) else ''}"


def _options(defines: Sequence[tuple[str, int]], architecture: str) -> list[str]:
    macros = [f"-D{name}={value}" for name, value in defines]
    return ["-std=c++17", f"--gpu-architecture={architecture}", *macros]


def _everything_read(source: Path) -> bytes:
    headers = sorted((*source.parent.glob("*.cuh"), *_SHARED.glob("*.cuh")))
    return b"\0".join(path.read_bytes() for path in (source, *headers))


def _compile(source: Path, options: Sequence[str]) -> bytes:
    (program,) = _check(
        nvrtc.nvrtcCreateProgram(source.read_bytes(), source.name.encode(), 0, [], [])
    )
    encoded = [option.encode() for option in options]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = bytearray(_check(nvrtc.nvrtcGetProgramLogSize(program))[0])
        _check(nvrtc.nvrtcGetProgramLog(program, log))
        raise CudaError(f"{source.name}: {bytes(log).decode(errors='replace')}")
    code = bytearray(_check(nvrtc.nvrtcGetCUBINSize(program))[0])
    _check(nvrtc.nvrtcGetCUBIN(program, code))
    _check(nvrtc.nvrtcDestroyProgram(program))
    return bytes(code)


@dataclass(frozen=True, slots=True)
class CudaKernel:
    """A kernel loaded on one device."""

    function: Any
    device: torch.device

    def launch(
        self,
        grid: tuple[int, int, int],
        threads: int,
        shared_bytes: int,
        arguments: Sequence["Argument"],
    ) -> None:
        """Queue one run on the current stream.

        Raises:
            CudaError: the launch was refused.
        """
        _enter_context(self.device)
        stream = torch.cuda.current_stream(self.device).cuda_stream
        held = [_as_c(argument) for argument in arguments]
        addresses = (ctypes.c_void_p * len(held))(*(address for _, address in held))
        at = ctypes.addressof(addresses)
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid
        config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
        config.sharedMemBytes, config.hStream = shared_bytes, stream
        config.attrs = [_overlapping()] if is_supported() else []
        config.numAttrs = len(config.attrs)
        _check(driver.cuLaunchKernelEx(config, self.function, at, 0))


def prefer_shared_memory(function: int) -> None:
    """Let a kernel run with as much shared memory, and as little cache, as a device can divide.

    Args:
        function: a loaded kernel's handle.

    Raises:
        CudaError: it is none.
    """
    if driver is not None:
        kind = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
        _check(driver.cuFuncSetAttribute(driver.CUfunction(function), kind, _PERCENT))


def _overlapping() -> Any:
    """The launch attribute of a kernel that calls `await_predecessor`."""
    attribute = driver.CUlaunchAttribute()
    kinds = driver.CUlaunchAttributeID
    attribute.id = kinds.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    attribute.value.programmaticStreamSerializationAllowed = 1
    return attribute


class TensorMap:
    """How the copy engine (TMA, compute capability 9.0) finds boxes of a tensor.

    Boxes come to lie in shared memory with rows of 128 bytes, swizzled.
    """

    def __init__(self, x: torch.Tensor, box: tuple[int, ...]) -> None:
        """Describe a tensor, which must stay where it is.

        Args:
            x: two to five axes, two bytes a value; all but the last axis, whose values are
                neighbours, step over a multiple of 16 bytes.
            box: its size, axis by axis; 64 along the last.

        Raises:
            CudaError: x does not meet this.
        """
        kind = driver.CUtensorMapDataType
        data_type = (
            kind.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
            if x.dtype == torch.bfloat16
            else kind.CU_TENSOR_MAP_DATA_TYPE_FLOAT16
        )
        # 128 bytes at a multiple of 64, which the bindings' own object does not promise
        self._memory = ctypes.create_string_buffer(128 + 64)
        self._address = (ctypes.addressof(self._memory) + 63) // 64 * 64
        status = ctypes.CDLL("libcuda.so.1").cuTensorMapEncodeTiled(
            ctypes.c_void_p(self._address),
            data_type.value,
            x.ndim,
            ctypes.c_void_p(x.data_ptr()),
            (ctypes.c_uint64 * x.ndim)(*reversed(x.shape)),
            (ctypes.c_uint64 * (x.ndim - 1))(*(2 * step for step in reversed(x.stride()[:-1]))),
            (ctypes.c_uint32 * x.ndim)(*reversed(box)),
            (ctypes.c_uint32 * x.ndim)(*(1,) * x.ndim),
            driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE.value,
            driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B.value,
            driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B.value,
            driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE.value,
        )
        _check((driver.CUresult(status),))

    @property
    def address(self) -> int:
        """Of its 128 bytes, for as long as this object lives."""
        return self._address


@functools.cache
def load_kernel(
    source: Path, name: str, defines: tuple[tuple[str, int], ...], device: torch.device
) -> CudaKernel:
    """Compile and load a kernel that may use all shared memory of a block.

    Raises:
        CudaError: it does not compile or load.
    """
    limits = describe_device(device)
    code = compile_source(source, defines, architecture_of(limits.capability))
    with torch.cuda.device(device):
        _enter_context(device)
        (module,) = _check(driver.cuModuleLoadData(code))
        (function,) = _check(driver.cuModuleGetFunction(module, name.encode()))
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _check(driver.cuFuncSetAttribute(function, attribute, limits.shared_bytes))
    return CudaKernel(function, device)


def _enter_context(device: torch.device) -> None:
    """Make the device's context this thread's, if it has none.

    PyTorch leaves that to the first call that needs one, which may be one of ours.
    """
    (context,) = _check(driver.cuCtxGetCurrent())
    if not int(context):
        (context,) = _check(driver.cuDevicePrimaryCtxRetain(device.index))
        _check(driver.cuCtxSetCurrent(context))


# an int and a float are passed as 32 bits
Argument = torch.Tensor | TensorMap | int | float


def _as_c(argument: "Argument") -> tuple[Any, int]:
    """A kernel's argument: what must stay alive until the launch, and its address."""
    if isinstance(argument, TensorMap):
        return argument, argument.address
    value: ctypes.c_void_p | ctypes.c_int | ctypes.c_float
    if isinstance(argument, torch.Tensor):
        value = ctypes.c_void_p(argument.data_ptr())
    elif isinstance(argument, int):
        value = ctypes.c_int(argument)
    else:
        value = ctypes.c_float(argument)
    return value, ctypes.addressof(value)


def _check(result: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a call gave beside its status.

    Raises:
        CudaError: the status is not success.
    """
    status, *rest = result
    if status.value != 0:
        words = status.name.removeprefix("CUDA_ERROR_").replace("_", " ").lower()
        raise CudaError(f"CUDA error: {words} ({status.name})")
    return tuple(rest)
