"""One block of the compiled backbone whose products stand alone, against the module in float64."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from kernels import FUSED
from kernels.linear import forward
from model.backbone import Block
from model.compiled.backbone import CompiledBlock, _Cast
from model.config import variant
from model.inference import optimise_for_inference
from tests.numerics import assert_no_worse_than

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# wider than the stages whose products are fused
DIM = 96


def make_block() -> nn.Module:
    """A block whose biases are as large as its maps, so that one that is lost is seen."""
    torch.manual_seed(0)
    block = Block(DIM, variant("tiny").backbone, FUSED)
    with torch.no_grad():
        for name, own in block.named_parameters():
            if name.endswith("bias") and "norm" not in name:
                own.copy_(torch.randn_like(own))
    return optimise_for_inference(block)


# the last product of the MLP by the kernel, its bias in the same pass; by the library, its bias
# early in the map that it is added to
@pytest.mark.parametrize("many_rows", [4096, 1], ids=["kernel", "library"])
@torch.inference_mode()
def test_no_worse_than_the_module(many_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "_MANY_ROWS", many_rows)
    block = make_block()
    x = torch.randn(1, 3, 9, DIM).half()
    oracle = deepcopy(block).double()(x.double())
    baseline = deepcopy(block).half()(x)
    compiled = CompiledBlock(block, _Cast(torch.float16, DEVICE))
    got = compiled(x.to(DEVICE)).cpu()
    assert got.dtype == torch.float16
    assert_no_worse_than(got, baseline, oracle, factor=2)
