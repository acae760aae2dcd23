"""UPerNet's head as it runs on a GPU, against the module: demo size, random maps."""

import pytest
import torch
from torch import Tensor

from model.compiled.segmenter import CompiledUPerNetHead
from model.config import variant
from model.inference import optimise_for_inference
from model.layers import to_nchw, to_nhwc
from model.upernet import UPerNetHead

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DIMS = variant("demo").backbone.dims
CHANNELS = 16
SIZES = {
    "even": [(16, 24), (8, 12), (4, 6), (2, 3)],
    # up-sampling is not a plain doubling, and pooled sizes exceed the coarsest map
    "odd": [(13, 9), (7, 5), (4, 3), (2, 2)],
    "a single cell": [(8, 8), (4, 4), (2, 2), (1, 1)],
}


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module that is compared with runs on the CPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def make_head(num_classes: int) -> UPerNetHead:
    torch.manual_seed(2)
    head = UPerNetHead(DIMS, CHANNELS, num_classes)
    for module in head.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.bias)
    optimise_for_inference(head)
    return head


def make_maps(hws: list[tuple[int, int]], batch: int = 2) -> list[Tensor]:
    rng = torch.Generator().manual_seed(3)
    return [torch.randn(batch, *hw, dim, generator=rng) for hw, dim in zip(hws, DIMS, strict=True)]


def run(head: UPerNetHead, maps: list[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    with torch.inference_mode():
        compiled = CompiledUPerNetHead(head, dtype=dtype, device=DEVICE)
        logits = compiled([x.to(DEVICE, dtype) for x in maps])
    return logits.cpu()


@pytest.mark.parametrize("hws", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("num_classes", [8, 5])
def test_logits_are_those_of_the_module(hws: list[tuple[int, int]], num_classes: int) -> None:
    head, maps = make_head(num_classes), make_maps(hws)
    with torch.inference_mode():
        expected = to_nhwc(head([to_nchw(x) for x in maps]))
    logits = run(head, maps)
    assert logits.shape == (2, *hws[0], num_classes)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)


def test_half_precision() -> None:
    head, maps = make_head(5), make_maps(SIZES["even"])
    exact = run(head, maps)
    for dtype, limit in ((torch.float16, 5e-3), (torch.bfloat16, 4e-2)):
        logits = run(head, maps, dtype)
        assert logits.dtype == dtype
        assert (logits.float() - exact).abs().max() < limit * exact.abs().max()


def test_an_image_does_not_depend_on_the_others() -> None:
    head, maps = make_head(5), make_maps(SIZES["odd"], batch=3)
    together = run(head, maps)
    alone = run(head, [x[1:2] for x in maps])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_the_maps_and_the_module_are_left_as_they_were() -> None:
    head, maps = make_head(5), make_maps(SIZES["even"])
    weights = {name: value.clone() for name, value in head.state_dict().items()}
    copies = [x.clone() for x in maps]
    run(head, maps)
    assert all(torch.equal(own, copy) for own, copy in zip(maps, copies, strict=True))
    assert all(torch.equal(weights[name], value) for name, value in head.state_dict().items())
