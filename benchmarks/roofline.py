"""Images per second that one H100 cannot exceed with nine kernels a block.

python -m benchmarks.roofline

Every kernel takes as long as its slowest resource: bytes through memory, tensor-core operations,
float32 operations, special functions. Times add up; there are no launch gaps and nothing stays in
the cache from one kernel to the next, so the figures hold for work far larger than the cache.

The block's kernels, in tensors of the model's width read + written: position encoding 2; norm and
in_proj 5; depthwise 3x3, SiLU and x_proj 4; dt_proj and scan 4; fusion, read-out, norm and gate 8;
out_proj 4; position encoding 2; norm, fc1 and GELU 5; fc2 6.
"""

import math
from dataclasses import dataclass, field
from typing import Final

import torch

from model.classifier import Classifier
from model.config import VARIANTS, Variant

# of the H100 SXM. Matrix products and memory: as measured, rounded, with large inputs; float32:
# 90 % of the data sheet; special functions: 16 a clock and multiprocessor at 1.755 GHz
TENSOR_FLOPS: Final = 790e12
MEMORY_BYTES: Final = 3.0e12
FLOAT_FLOPS: Final = 60e12
SPECIAL_OPS: Final = 132 * 16 * 1.755e9
DEVICE: Final = "H100"

CLASSES: Final = {"classify": 1000, "detect": 80, "segment": 150}
# images that share one reading of the weights
WEIGHT_BATCH: Final = {"classify": 256, "detect": 1, "segment": 8}
PROPOSALS: Final = 1000
DETECTIONS: Final = 100
HALF: Final = 2  # bytes of a float16 number


@dataclass(slots=True)
class Work:
    """Kernels of one image, as the seconds of each."""

    seconds: list[float] = field(default_factory=list)

    def add(
        self, moved: float, tensor: float = 0, flops: float = 0, special: float = 0, times: int = 1
    ) -> None:
        """One kernel: bytes moved and operations done."""
        slowest = max(
            moved / MEMORY_BYTES,
            tensor / TENSOR_FLOPS,
            flops / FLOAT_FLOPS,
            special / SPECIAL_OPS,
        )
        self.seconds.append(times * slowest)

    def conv(self, positions: int, inputs: int, outputs: int, kernel: int = 1) -> None:
        """A dense convolution with its activation."""
        self.add(
            positions * HALF * (inputs + outputs),
            2.0 * positions * inputs * outputs * kernel * kernel,
        )


def images_per_second(task: str, variant: str, height: int, width: int) -> float:
    """The ceiling of one task, model size and input size."""
    row = VARIANTS[variant]
    work = Work()
    maps = _backbone(work, row, height, width, output_norms=task != "classify")
    if task == "classify":
        positions, dim = maps[-1][0] * maps[-1][1], row.backbone.dims[-1]
        work.add(positions * dim * HALF, 2.0 * dim * CLASSES[task])
    elif task == "segment":
        _upernet(work, row, maps, height * width)
    else:
        _mask_rcnn(work, row, maps)
    weights = _weights(row) * HALF / MEMORY_BYTES / WEIGHT_BATCH[task]
    return 1 / (sum(work.seconds) + weights)


def _backbone(
    work: Work, row: Variant, height: int, width: int, *, output_norms: bool
) -> list[tuple[int, int]]:
    _stem(work, height, width, row.backbone.dims[0])
    h, w = height // 4, width // 4
    maps = []
    for stage, (dim, depth) in enumerate(zip(row.backbone.dims, row.backbone.depths, strict=True)):
        positions = h * w
        _blocks(work, positions, dim, depth)
        maps.append((h, w))
        if output_norms:
            work.add(positions * dim * HALF * 2)
        if stage < len(row.backbone.dims) - 1:
            _downsample(work, positions, dim)
            h, w = math.ceil(h / 2), math.ceil(w / 2)
    return maps


def _stem(work: Work, height: int, width: int, dim: int) -> None:
    n1, n2, half = (height // 2) * (width // 2), (height // 4) * (width // 4), dim // 2
    pixels, wide, narrow = height * width * 3, n2 * 4 * dim * HALF, n2 * dim * HALF
    first, dense = n1 * half * HALF, 2.0 * n1 * 9 * half * half
    work.add(HALF * pixels + first, 2.0 * n1 * 27 * half)
    work.add(2 * first, dense)
    work.add(3 * first, dense)
    work.add(first + wide, 2.0 * n2 * 9 * half * 4 * dim)
    work.add(wide + narrow, 2.0 * n2 * 4 * dim * dim)


def _blocks(work: Work, n: int, dim: int, depth: int) -> None:
    """`depth` blocks of `n` tokens."""
    unit, inner, rank = n * dim * HALF, 2 * dim, math.ceil(dim / 16)
    small = n * (rank + 2) * HALF
    mlp = 2.0 * n * dim * 4 * dim
    position = 2.0 * n * dim * 9 + n * dim * 8
    scan = n * inner * 4
    for moved, tensor, flops, special in (
        (2 * unit, 0, position, 0),
        (5 * unit, 2.0 * n * dim * 2 * inner, 0, 0),
        (4 * unit + small, 2.0 * n * inner * (rank + 2), 2.0 * n * inner * 9, n * inner * 2),
        (4 * unit + small, 2.0 * n * rank * inner, n * inner * 12, scan),
        (8 * unit + small, 0, 2.0 * n * inner * 25 + n * inner * 14, n * inner * 2),
        (4 * unit, 2.0 * n * inner * dim, 0, 0),
        (2 * unit, 0, position, 0),
        (5 * unit, mlp, 0, n * 4 * dim * 2),
        (6 * unit, mlp, 0, 0),
    ):
        work.add(moved, tensor, flops, special, times=depth)


def _downsample(work: Work, n: int, dim: int) -> None:
    unit, after, hidden = n * dim * HALF, n // 4, 8 * dim
    work.add(9 * unit, 2.0 * n * dim * hidden)
    work.add(10 * unit, 0, 2.0 * after * hidden * 9)
    work.add(2.5 * unit, 2.0 * after * hidden * 2 * dim)


def _upernet(work: Work, row: Variant, maps: list[tuple[int, int]], pixels: int) -> None:
    n, dims, width = [h * w for h, w in maps], row.backbone.dims, row.heads.upernet_channels
    for side in (1, 2, 3, 6):
        work.add(n[3] * dims[3] * HALF, 2.0 * side * side * dims[3] * width)
    work.conv(n[3], dims[3] + 4 * width, width, 3)
    for stage in range(3):
        work.conv(n[stage], dims[stage], width)
        work.add(n[stage] * width * HALF * 2)
        work.conv(n[stage], width, width, 3)
    work.add(HALF * width * (n[1] + n[2] + n[3] + 3 * n[0]))
    work.conv(n[0], 4 * width, width, 3)
    work.conv(n[0], width, CLASSES["segment"])
    work.add(n[0] * CLASSES["segment"] * HALF + pixels)


def _mask_rcnn(work: Work, row: Variant, maps: list[tuple[int, int]]) -> None:
    width, fc, classes = row.heads.fpn_channels, row.heads.box_fc_channels, CLASSES["detect"]
    n = [h * w for h, w in maps]
    n.append(math.ceil(maps[-1][0] / 2) * math.ceil(maps[-1][1] / 2))
    for stage, dim in enumerate(row.backbone.dims):
        work.conv(n[stage], dim, width)
        work.add(n[stage] * width * HALF)
        work.conv(n[stage], width, width, 3)
    for positions in n:
        work.conv(positions, width, width, 3)
        work.conv(positions, width, 15)
    work.add(5 * sum(n) * 15 * 4)
    pooled = 49 * width
    work.add(PROPOSALS * pooled * HALF * 3)
    work.add(PROPOSALS * (pooled + fc) * HALF + pooled * fc * HALF, 2.0 * PROPOSALS * pooled * fc)
    work.add(PROPOSALS * 4 * fc * HALF, 2.0 * PROPOSALS * (fc * fc + fc * (5 * classes + 1)))
    work.add(DETECTIONS * 196 * width * HALF * 3)
    for _ in range(row.heads.mask_convs):
        work.conv(DETECTIONS * 196, width, width, 3)
    work.add(DETECTIONS * (196 + 784) * width * HALF, 2.0 * DETECTIONS * 784 * width * width)
    work.conv(DETECTIONS * 784, width, classes)


def _weights(row: Variant) -> int:
    """Numbers in the classifier's weights; what the dense heads read of theirs is not counted."""
    with torch.device("meta"):
        network = Classifier(row, CLASSES["classify"])
    return sum(parameter.numel() for parameter in network.parameters())


def main() -> None:
    for task, height, width in (
        ("classify", 224, 224),
        ("segment", 512, 512),
        ("detect", 800, 1344),
    ):
        for variant in ("tiny", "small", "base"):
            ceiling = images_per_second(task, variant, height, width)
            print(f"{task}-{variant}-{height}x{width}: {ceiling:,.0f} images/s")


if __name__ == "__main__":
    main()
