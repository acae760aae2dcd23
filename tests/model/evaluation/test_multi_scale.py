"""Several sizes and mirror images, against a loop without strips, batches or classes."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model.checkpoint import build_network
from model.config import InputConfig, ModelSpec, TaskName
from model.evaluation.multi_scale import RATIOS, MultiScaleSegmenter
from model.predictor import Predictor, Prepared
from model.results import SegmentParams
from tests.model.evaluation.layouts import noise

NAMES = ("sky", "sea", "sand", "stone")


def predictor(task: TaskName = TaskName.SEGMENT) -> Predictor:
    torch.manual_seed(3)
    spec = ModelSpec(
        name="random",
        task=task,
        variant="demo",
        class_names=NAMES,
        # a single pass would see another size; several sizes start from the original
        input=InputConfig(short=96, long=192),
    )
    return Predictor(build_network(spec), spec)


def undecided(rgb: NDArray[np.uint8]) -> Predictor:
    """Random weights whose classes are about as frequent as each other on this picture."""
    own = predictor()
    item = own.prepare(rgb)
    (logits,) = own.infer([item], [SegmentParams()])
    head = own._network.get_submodule("head.classify")
    scale = 1 / logits.flatten(1).std(dim=1)
    head.weight.data *= scale.view(-1, 1, 1, 1)  # type: ignore[operator, union-attr]
    head.bias.data = (head.bias.data - logits.mean(dim=(1, 2))) * scale  # type: ignore[operator, union-attr]
    return own


def smooth(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    blurred = cv2.GaussianBlur(noise(seed, height, width), (0, 0), 6)
    stretched = cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    return np.asarray(stretched, np.uint8)


def probabilities(own: Predictor, rgb: NDArray[np.uint8]) -> Tensor:
    """(K, H, W): mean over the views, each brought to the original size as a whole."""
    height, width = rgb.shape[:2]
    config = own.spec.input
    views = []
    for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75):
        # rounded twice: the goal, and what keeps the aspect ratio inside it
        goal_w, goal_h = int(width * ratio + 0.5), int(height * ratio + 0.5)
        scale = min(goal_w / width, goal_h / height)
        size = (int(width * scale + 0.5), int(height * scale + 0.5))
        resized = cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR)
        for mirrored in (False, True):
            pixels = np.fliplr(resized) if mirrored else resized
            scaled = (pixels.astype(np.float32) - config.mean) / config.std
            tensor = torch.from_numpy(scaled.astype(np.float32)).permute(2, 0, 1).contiguous()
            item = Prepared(tensor, pixels.shape[:2], (height, width))
            (logits,) = own.infer([item], [SegmentParams()])
            full = F.interpolate(logits[None], size=pixels.shape[:2], mode="bilinear")
            if mirrored:
                full = full.flip(dims=(3,))
            full = F.interpolate(full, size=(height, width), mode="bilinear")
            views.append(full[0].softmax(dim=0))
    return torch.stack(views).mean(dim=0)


@pytest.mark.parametrize("hw", [(70, 101), (91, 64)])
def test_agrees_with_a_plain_loop(hw: tuple[int, int]) -> None:
    assert RATIOS == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    rgb = smooth(1, *hw)
    own = undecided(rgb)
    expected = probabilities(own, rgb)
    several = MultiScaleSegmenter(own)
    prepared = several.prepare(rgb)
    (raw,) = several.infer([prepared], [SegmentParams()])
    found = several.finish(raw, prepared).label_map
    assert found.shape == hw
    assert found.dtype == np.uint8
    best = expected.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-5).numpy()
    assert clear.mean() > 0.99
    assert (found == expected.argmax(dim=0).numpy())[clear].all()
    # the case can tell: classes alternate, and a single pass answers otherwise
    assert len(np.unique(found)) > 2
    alone = own.prepare(rgb)
    (logits,) = own.infer([alone], [SegmentParams()])
    single = own.finish(logits, alone)
    assert (single.label_map != found).any()  # type: ignore[union-attr]


def test_a_batch_answers_as_each_alone() -> None:
    several = MultiScaleSegmenter(predictor(), ratios=(0.5, 1.0))
    batch = [several.prepare(smooth(seed, 40, 56)) for seed in (1, 2, 3)]
    assert {item.shape for item in batch} == {(40, 56)}
    together = several.infer(batch, [SegmentParams()] * 3)
    for item, raw in zip(batch, together, strict=True):
        (alone,) = several.infer([item], [SegmentParams()])
        for a, b in zip(alone, raw, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_other_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="random is a model for classify"):
        MultiScaleSegmenter(predictor(TaskName.CLASSIFY))
