"""Which errors of CUDA halve a batch, fail an image, or end the process."""

import weakref

import pytest
import torch

from kernels.nvrtc import CudaError
from service.backends.cuda_errors import run_on_gpu
from service.backends.torch_backend import TorchBackend
from service.engine.device import DeviceCrash, DeviceOutOfMemoryError
from tests.service.compiled_fake import FakeGpu


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    fake = FakeGpu()
    fake.install(monkeypatch)
    return fake


def failing(error: Exception, cause: Exception | None = None) -> None:
    def fail() -> None:
        raise error from cause

    run_on_gpu(fail)


def test_a_result_comes_back(gpu: FakeGpu) -> None:
    assert run_on_gpu(lambda: 3) == 3


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), None),
        (torch.AcceleratorError("CUDA error: out of memory"), None),
        (RuntimeError("Triton Error [CUDA]: out of memory"), None),
        (CudaError("CUDA error: out of memory (CUDA_ERROR_OUT_OF_MEMORY)"), None),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), None),
        (RuntimeError("could not record it"), torch.OutOfMemoryError("CUDA out of memory.")),
    ],
)
def test_no_memory_gives_back_the_reserve(
    gpu: FakeGpu, error: Exception, cause: Exception | None
) -> None:
    # a broken context, too, would say so: memory is asked about first
    gpu.is_broken = True
    with pytest.raises(DeviceOutOfMemoryError):
        failing(error, cause)
    assert gpu.num_emptied == 1


def test_what_the_failed_call_held_is_free_before_the_reserve_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def exhaust() -> None:
        activations = torch.zeros(3)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError(f"CUDA out of memory beside {activations.shape}")

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(held[0]() is not None))
    with pytest.raises(DeviceOutOfMemoryError, match="beside"):
        run_on_gpu(exhaust)
    assert alive == [False]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (torch.AcceleratorError("device-side assert triggered"), None),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), None),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), None),
        (CudaError("CUDA error: illegal address (CUDA_ERROR_ILLEGAL_ADDRESS)"), None),
        (RuntimeError("could not record it"), torch.AcceleratorError("CUDA error: unspecified")),
    ],
)
def test_only_a_broken_context_is_a_crash(
    gpu: FakeGpu, error: Exception, cause: Exception | None
) -> None:
    with pytest.raises(type(error), match=str(error)[:9]):
        failing(error, cause)
    gpu.is_broken = True
    with pytest.raises(DeviceCrash, match=str(error)[:9]):
        failing(error, cause)
    assert gpu.num_emptied == 0


def test_other_errors_are_not_about_the_device(gpu: FakeGpu) -> None:
    gpu.is_broken = True
    with pytest.raises(RuntimeError, match="shapes differ"):
        failing(RuntimeError("shapes differ"))
    with pytest.raises(ValueError, match="CUDA error"):
        failing(ValueError("CUDA error"))


def test_torch_on_a_gpu_is_guarded_and_on_the_cpu_is_not(gpu: FakeGpu) -> None:
    class Exhausted:
        spec = None

        def infer(self, batch: object, params: object) -> None:
            raise torch.OutOfMemoryError("out of memory")

    for device, error in (("cuda:0", DeviceOutOfMemoryError), ("cpu", torch.OutOfMemoryError)):
        backend = TorchBackend(Exhausted(), device=device, sha256=None)  # type: ignore[arg-type]
        with pytest.raises(error):
            backend.infer(backend.stage([], []))
