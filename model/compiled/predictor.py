"""One model compiled for a GPU: the three steps of `model.predictor.Predictor`."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kernels.side_by_side import compiled_side_by_side
from model.checkpoint import load_network
from model.compiled.detect_pipeline import DetectPipeline
from model.compiled.errors import GraphCaptureError
from model.compiled.graphs import GraphCache, make_recorder
from model.compiled.pictures import ExactPictures, FastPictures, Pictures, PreparedPicture
from model.compiled.pipelines import ClassifyPipeline, GraphKey, Pipeline, SegmentPipeline
from model.compiled.staging import network_hw
from model.compiled.transfer import active
from model.config import ModelSpec, TaskName
from model.inference import optimise_for_inference
from model.results import DEFAULT_PARAMS, DetectParams, Params, Result

# photographs of most cameras, upright and lying, pixels
_USUAL_HWS: Final = ((480, 640), (640, 480))
# of images without a request: everything is found, so that every row of the answer is in use
_RESIDENT_PARAMS: Final[dict[TaskName, Params]] = {
    **DEFAULT_PARAMS,
    TaskName.DETECT: DetectParams(score_threshold=0.0),
}
_PIPELINES: Final[dict[TaskName, Callable[..., Pipeline[Any, Any]]]] = {
    TaskName.CLASSIFY: ClassifyPipeline,
    TaskName.DETECT: DetectPipeline,
    TaskName.SEGMENT: SegmentPipeline,
}


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """Choices of the operator.

    Attributes:
        dtype: of maps, weights and products: float16, bfloat16 or float32.
        preprocessing: `fast` sends the original pixels and resizes on the device, with the same
            values; `exact` resizes and normalises on the CPU.
        max_graphs: captured at the same time; the one used longest ago is dropped.
        batch_buckets: a batch is filled up to the next of these sizes, a larger one is split.
    """

    dtype: torch.dtype = torch.float16
    preprocessing: Literal["fast", "exact"] = "fast"
    max_graphs: int = 64
    batch_buckets: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class StagedBatch:
    """A batch on its way to the device; dropping it gives its memory back.

    Attributes:
        parts: at most the largest bucket each; parameters, pictures and what `Pictures` staged.
    """

    parts: tuple[tuple[Sequence[PreparedPicture], Sequence[Params], Any], ...]


@dataclass(frozen=True, slots=True)
class WarmUpReport:
    """What a warm-up did.

    Attributes:
        seconds: it took.
        graphs: captured now, all together.
        failures: (batch, height, width) that could not be captured, and why; they would fail in
            service, too.
    """

    seconds: float
    graphs: int
    failures: tuple[tuple[tuple[int, int, int], str], ...]


class CompiledPredictor:
    """A model whose batches are captured CUDA graphs.

    `prepare` and `finish` are thread-safe, `stage` belongs to one thread, everything else to the
    one that owns the device; the two may be the same. An answer does not depend on what else is in
    the batch, up to rounding.

    Detection differs from `Predictor` in one respect: `max_proposals` above 1000 counts as 1000.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: ModelSpec,
        *,
        device: torch.device | str = "cuda:0",
        options: CompileOptions | None = None,
    ) -> None:
        """Fold, cast and lay out the weights; `network` goes through `optimise_for_inference`.

        For the whole process, the library no longer joins sums of products in half precision.

        Args:
            device: see `model.compiled.errors.check_gpu`; `cpu` needs Triton's interpreter.

        Raises:
            ValueError: no usable batch buckets, or an input the compiled model does not serve.
        """
        options = options or CompileOptions()
        if not options.batch_buckets or min(options.batch_buckets) < 1:
            raise ValueError(f"batch buckets must be positive, got {options.batch_buckets}")
        self.spec = spec
        self.dtype = options.dtype
        self.device = torch.empty(0, device=device).device  # `cuda` has a number from here on
        self._buckets = sorted(set(options.batch_buckets))
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        # or convolutions in float32 would round their operands to ten bits
        torch.backends.cudnn.allow_tf32 = False
        with active(self.device), torch.inference_mode():
            self._pictures: Pictures[Any] = (
                FastPictures(spec, self.device)
                if options.preprocessing == "fast"
                else ExactPictures(spec, self.device, options.dtype)
            )
            self._pipeline = _PIPELINES[spec.task](
                optimise_for_inference(network), spec.input, dtype=self.dtype, device=self.device
            )
            self._graphs: GraphCache[GraphKey, Any, Any] = GraphCache(
                options.max_graphs, make_recorder(self.device)
            )

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        device: torch.device | str = "cuda:0",
        options: CompileOptions | None = None,
    ) -> "CompiledPredictor":
        """Open a model file.

        Raises:
            CheckpointError: the file cannot be read or its weights do not fit.
        """
        network, spec = load_network(path)
        return cls(network, spec, device=device, options=options)

    @property
    def graph_count(self) -> int:
        """Graphs captured at present."""
        return len(self._graphs)

    @property
    def graph_keys(self) -> list[GraphKey]:
        """Of the graphs captured at present; the one that would be dropped next comes first."""
        return self._graphs.keys()

    @property
    def fallback_count(self) -> int:
        """Images of which the compiled detector could not tell all objects; see `DetectPipeline`.

        Each was answered by the module instead, in float32.
        """
        return self._pipeline.fallbacks if isinstance(self._pipeline, DetectPipeline) else 0

    def prepare(self, rgb: NDArray[np.uint8]) -> PreparedPicture:
        """All that the CPU does before the network.

        Args:
            rgb: (h, w, 3) uint8, upright; any size from 1x1. With fast preprocessing it is kept
                and must not change before `stage` or `infer` has returned.
        """
        return self._pictures.prepare(rgb)

    def infer(self, batch: Sequence[PreparedPicture], params: Sequence[Params]) -> list[Any]:
        """`stage` and `infer_staged`, whose errors are raised here."""
        return self.infer_staged(self.stage(batch, params))

    @torch.inference_mode()
    def stage(self, batch: Sequence[PreparedPicture], params: Sequence[Params]) -> StagedBatch:
        """Begin to bring pictures of one shape to the device, also while it computes or captures.

        Raises:
            ValueError: empty batch, different shapes, or another number of params.
            RuntimeError: out of memory, or a broken device.
        """
        shapes = {prepared.shape for prepared in batch}
        if len(shapes) != 1 or len(params) != len(batch):
            raise ValueError(
                f"a batch needs one shape and one params per image, got shapes {sorted(shapes)}, "
                f"{len(batch)} images, {len(params)} params"
            )
        most = self._buckets[-1]
        ranges = [slice(start, start + most) for start in range(0, len(batch), most)]
        with active(self.device):
            return StagedBatch(
                tuple((batch[r], params[r], self._pictures.stage(batch[r])) for r in ranges)
            )

    @torch.inference_mode()
    def infer_staged(self, staged: StagedBatch) -> list[Any]:
        """Run the network on a staged batch, once.

        A size that comes for the first time is captured first, which takes a second or more.

        Returns:
            one opaque raw result per picture, on the host.

        Raises:
            TypeError: parameters of another task.
            GraphCaptureError: out of memory, most likely; smaller batches may still work.
        """
        raws: list[Any] = []
        with active(self.device):
            for batch, params, pictures in staged.parts:
                raws += self._infer_part(batch, params, pictures)
        return raws

    @torch.inference_mode()
    def finish(self, raw: Any, prepared: PreparedPicture) -> Result:
        """Raw result of one picture -> answer at the size of the original picture."""
        return self._pipeline.finish(raw, prepared)

    @torch.inference_mode()
    def forward_resident(self, images: Tensor) -> Any:
        """The graph of exactly this batch, captured if need be; nothing goes to the host.

        Args:
            images: (B, H, W, 4) on the device, uint8 RGBX or normalised in the model's dtype;
                copied into the graph's input. For detection they have no padding.

        Returns:
            classification: (B, num_classes) float32 logits; detection: `DetectTensors` with
            masks, score threshold 0; segmentation: (B, h, w, num_classes) logits in the model's
            dtype. Valid until the next call of any method.

        Raises:
            GraphCaptureError: see `infer`.
        """
        with active(self.device):
            batch, params = self._residents(images)
            key = self._capture(images.shape[0], batch[0].shape, images.dtype, params)
            inputs = self._graphs.inputs(key)
            self._pipeline.pictures(inputs).copy_(images)
            self._pipeline.control(inputs, batch, params)
            return self._graphs.replay(key)

    @torch.inference_mode()
    def forward_ungraphed(self, images: Tensor) -> Any:
        """`forward_resident`, launch by launch; the result stays."""
        with active(self.device):
            batch, params = self._residents(images)
            inputs = self._pipeline.inputs(images, self._pipeline.choose(params))
            self._pipeline.control(inputs, batch, params)
            return self._pipeline.run(inputs)

    @torch.inference_mode()
    def warm_up(
        self,
        batch_sizes: Sequence[int] | None = None,
        shapes: Sequence[tuple[int, int]] | None = None,
        params: Sequence[Params] | None = None,
    ) -> WarmUpReport:
        """Compile the kernels and capture the graphs before the first request.

        Args:
            batch_sizes: None: all buckets; others go up to the next bucket.
            shapes: heights and widths of the network's input; None: the usual ones of the task.
            params: each gets its own graphs where it needs them; None: the defaults.
        """
        start = time.perf_counter()
        # the largest first: the others find room in the memory it leaves behind
        buckets = sorted({self._bucket(size) for size in batch_sizes or self._buckets})[::-1]
        failures = []
        with active(self.device):
            self._compile_features(buckets, shapes or self._usual_shapes())
            for hw in shapes or self._usual_shapes():
                self._warm_up_staging(hw)
                for own in params or [DEFAULT_PARAMS[self.spec.task]]:
                    for bucket in buckets:
                        try:
                            self._warm_up_graph(bucket, hw, own)
                        except (GraphCaptureError, torch.OutOfMemoryError) as exc:
                            failures.append(((bucket, *hw), str(exc)))
        return WarmUpReport(time.perf_counter() - start, self.graph_count, tuple(failures))

    def _compile_features(self, buckets: Sequence[int], hws: Sequence[tuple[int, int]]) -> None:
        if self.device.type != "cuda":
            return
        with compiled_side_by_side(), suppress(torch.OutOfMemoryError):
            for size, hw in product(buckets, hws):
                self._pipeline.features(
                    torch.empty((size, *hw, 4), dtype=self._pictures.dtype, device=self.device)
                )
        # this stream's memory is of no use to the one that captures
        torch.cuda.empty_cache()

    def _infer_part(
        self, batch: Sequence[PreparedPicture], params: Sequence[Params], pictures: Any
    ) -> list[Any]:
        bucket = self._bucket(len(batch))
        key = self._capture(bucket, batch[0].shape, self._pictures.dtype, params)
        inputs = self._graphs.inputs(key)
        # the rows beyond keep what they had: no row sees another one
        self._pictures.load(pictures, self._pipeline.pictures(inputs)[: len(batch)])
        self._pipeline.control(inputs, batch, params)
        return self._pipeline.collect(inputs, self._graphs.replay(key), batch, params)

    def _capture(
        self, batch: int, hw: tuple[int, int], pixels: torch.dtype, params: Sequence[Params]
    ) -> GraphKey:
        """The key of the graph that serves these, which is captured from now on."""
        choice = self._pipeline.choose(params)
        key = GraphKey(batch, hw, pixels, choice)
        if key not in self._graphs:
            pictures = torch.zeros((batch, *hw, 4), dtype=pixels, device=self.device)
            inputs = self._pipeline.inputs(pictures, choice)
            self._graphs.capture(key, self._pipeline.run, inputs)
        return key

    def _bucket(self, size: int) -> int:
        return next((own for own in self._buckets if own >= size), self._buckets[-1])

    def _residents(self, images: Tensor) -> tuple[list[PreparedPicture], list[Params]]:
        hw = (images.shape[1], images.shape[2])
        batch = [PreparedPicture(images[0], hw, hw, hw)] * images.shape[0]
        return batch, [_RESIDENT_PARAMS[self.spec.task]] * images.shape[0]

    def _usual_shapes(self) -> list[tuple[int, int]]:
        shapes = [network_hw(*hw, self.spec.task, self.spec.input)[1] for hw in _USUAL_HWS]
        return list(dict.fromkeys(shapes))

    def _warm_up_staging(self, hw: tuple[int, int]) -> None:
        """The kernels that resize: a picture of about the network's size will do."""
        picture = self.prepare(np.zeros((*hw, 3), dtype=np.uint8))
        out = torch.empty((1, *picture.shape, 4), dtype=self._pictures.dtype, device=self.device)
        self._pictures.load(self._pictures.stage([picture]), out)

    def _warm_up_graph(self, bucket: int, hw: tuple[int, int], params: Params) -> None:
        key = self._capture(bucket, hw, self._pictures.dtype, [params])
        inputs = self._graphs.inputs(key)
        batch = [PreparedPicture(self._pipeline.pictures(inputs)[0], hw, hw, hw)]
        self._pipeline.control(inputs, batch, [params])
        self._pipeline.collect(inputs, self._graphs.replay(key), batch, [params])
