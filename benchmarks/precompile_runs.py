"""Programs whose kernels `benchmarks.precompile` compiles, as far as they get without a GPU.

They run on `meta` tensors: shapes, strides and alignments are those of the GPU run, nothing is
allocated or computed.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any, Final

import numpy as np
import torch

from benchmarks import compiled_model, endurance, half_precision, kernel_matrix
from benchmarks.bench_gpu import BATCHES, DENSE, OTHER_SIZES, VARIANTS
from demo.shipped import model_files
from kernels.depthwise.triton_fwd import conv_silu_triton
from kernels.selective_scan.triton_fwd import low_rank_scan_triton
from model.compiled.predictor import CompiledPredictor, CompileOptions
from model.config import TaskName
from model.images import DecodeLimits, decode_rgb
from service.capacity import capacity_for
from service.settings import Settings
from tests.kernels.inference_ops import OPS, Draw
from tests.kernels.test_inference_kernels import OneOfBatch, Transposed
from tests.model import golden_gpu

DEVICE: Final = "meta"
# of most cameras, upright and lying: a server captures their graphs when it starts
PHOTOGRAPHS: Final = ((480, 640), (640, 480))

# what each one is called, and itself
Runs = Iterator[tuple[str, Callable[[], object]]]


def _until_host(run: Callable[[], object]) -> None:
    """As far as `meta` gets: every launch comes before the first value is wanted on the host."""
    try:
        run()
    except (RuntimeError, NotImplementedError, TypeError) as exc:
        if "meta" not in str(exc):
            raise


def _infer(predictor: Any, picture: Any, batch: int) -> None:
    """From pixels on the host to the copies of the answer."""
    params = [compiled_model.PARAMS[predictor.spec.task]] * batch
    prepared = [predictor.prepare(picture)] * batch
    _until_host(lambda: predictor.infer(prepared, params))


def _resident(predictor: Any, hw: tuple[int, int], batch: int) -> None:
    pixels = torch.empty((batch, *hw, 4), dtype=torch.uint8, device=DEVICE)
    compiled_model.forward_resident(predictor, pixels)


def run_models() -> Runs:
    """Everything that `bench_gpu`, `endurance` and a server with default settings launch."""
    for variant in VARIANTS:
        for side in (224, *OTHER_SIZES) if variant == "tiny" else (224,):
            hw = (side, side)
            predictor = compiled_model.build_compiled(TaskName.CLASSIFY, variant, hw, DEVICE)
            name = f"classify {variant} {side}"
            for batch in BATCHES if side == 224 else (1,):
                yield f"{name} x {batch}", partial(_resident, predictor, hw, batch)
            picture = compiled_model.random_picture(TaskName.CLASSIFY, hw)
            yield f"{name} from pixels", partial(_infer, predictor, picture, 1)
    predictor = compiled_model.build_compiled(TaskName.CLASSIFY, "tiny", (224, 224), DEVICE)
    for hw in product(endurance.SIDES, endurance.SIDES):
        for batch in endurance.BATCHES:
            yield f"classify tiny {hw} x {batch}", partial(_resident, predictor, hw, batch)
    for task, (hw, batches) in DENSE.items():
        predictor = compiled_model.build_compiled(task, "tiny", hw, DEVICE)
        pictures = [compiled_model.random_picture(task, hw)]
        pictures += [np.zeros((*own, 3), np.uint8) for own in PHOTOGRAPHS]
        for batch in batches:
            yield f"{task} {hw} x {batch}", partial(_resident, predictor, hw, batch)
            for picture in pictures:
                name = f"{task} of {picture.shape[:2]} x {batch}"
                yield name, partial(_infer, predictor, picture, batch)


def run_warm_up() -> Runs:
    """The warm-up of tiny classification with the default batch sizes, as `bench_gpu` times it."""
    predictor = compiled_model.build_compiled(TaskName.CLASSIFY, "tiny", (224, 224), DEVICE)
    for batch in compiled_model.DEFAULT_BUCKETS:
        yield f"warm-up x {batch}", partial(_resident, predictor, (224, 224), batch)


def run_first_start() -> Runs:
    """A server's start with the shipped models and default settings."""
    pixels = capacity_for(Settings(), "cuda:0").batch_pixels
    pictures = [np.zeros((*hw, 3), np.uint8) for hw in PHOTOGRAPHS]
    for path in model_files():
        predictor = CompiledPredictor.load(path, device=DEVICE)
        for hw in dict.fromkeys(predictor.prepare(own).shape for own in pictures):
            most = pixels // (hw[0] * hw[1])
            for batch in [own for own in compiled_model.DEFAULT_BUCKETS if own <= most][::-1]:
                yield f"{path.stem} {hw} x {batch}", partial(_resident, predictor, hw, batch)
        yield f"{path.stem} from pixels", partial(_infer, predictor, pictures[0], 1)


def run_matrix() -> Runs:
    """Everything that `kernel_matrix` launches, and the tests beside it."""
    for op, shape, dtype in kernel_matrix.tasks():
        draw = partial(Draw, shape, kernel_matrix.DTYPES[dtype], DEVICE)
        yield f"{op} {shape} {dtype}", partial(_kernel_side, op, draw)
    for op in OPS:
        for kind in (Draw, OneOfBatch, Transposed):
            draw = partial(kind, (2, 6, 5, 16), torch.float32, DEVICE)
            yield f"{op} {kind.__name__}", partial(_kernel_side, op, draw)
    for dtype, own in kernel_matrix.DTYPES.items():
        yield f"scan with extreme steps {dtype}", partial(_extreme_scan, own)
    yield "offsets beyond 31 bits", _huge_map


def _kernel_side(op: str, draw: Callable[[], Draw]) -> None:
    OPS[op](draw()).kernel()


def _extreme_scan(dtype: torch.dtype) -> None:
    draw = Draw((1, 9, 8, 16), dtype, DEVICE)
    weight, steps = draw.half(32, 1), torch.empty(32, device=DEVICE)
    low_rank_scan_triton(draw.map(32), draw.map(3), weight.t().contiguous(), steps, steps)


def _huge_map() -> None:
    x = torch.empty((700, 224, 224, 64), dtype=torch.float16, device=DEVICE)
    conv_silu_triton(x, torch.empty((9, 64), device=DEVICE), torch.empty(64, device=DEVICE))


def run_references(dtype: torch.dtype) -> Runs:
    """Everything that `golden_gpu` and `half_precision` launch: one picture at a time."""
    models = golden_gpu.GpuModels(dtype, DEVICE)
    for name in golden_gpu.case_names():
        yield name, partial(_until_host, partial(golden_gpu.compare, name, models))
    files = half_precision.pictures()
    pictures = [decode_rgb(path.read_bytes(), limits=DecodeLimits()) for path in files]
    for path in model_files():
        options = CompileOptions(dtype=dtype)
        predictor = CompiledPredictor.load(path, device=DEVICE, options=options)
        for picture in pictures:
            yield f"{path.stem} of {picture.shape[:2]}", partial(_infer, predictor, picture, 1)


RUNS: Final[dict[str, Callable[[], Runs]]] = {
    "models": run_models,
    "warm-up": run_warm_up,
    "first-start": run_first_start,
    "matrix": run_matrix,
    "references": partial(run_references, torch.float16),
    "references-bfloat16": partial(run_references, torch.bfloat16),
    "references-float32": partial(run_references, torch.float32),
}
