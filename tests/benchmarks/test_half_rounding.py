"""What is rounded is what was named, and nothing stays behind."""

import torch
from torch import Tensor, nn

from benchmarks.half_rounding import round_weights, rounded, rounded_maps


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.backbone(x))
        return out


def is_half(x: Tensor) -> bool:
    return torch.equal(x, rounded(x))


def test_weights_of_one_part() -> None:
    network = Network()
    round_weights(network, "backbone.")
    assert all(is_half(own) for own in network.backbone.parameters())
    assert not is_half(network.head.weight)
    round_weights(network, "")
    assert all(is_half(own) for own in network.parameters())


def test_maps_are_rounded_inside_only() -> None:
    network, x = Network(), torch.rand(5, 3)
    with torch.inference_mode():
        plain = network(x)
        with rounded_maps(network, "backbone."):
            of_backbone = network(x)
        with rounded_maps(network, ""):
            of_all = network(x)
        hidden = rounded(network.backbone[1](rounded(network.backbone[0](x))))
        assert torch.equal(of_backbone, network.head(hidden))
        assert torch.equal(of_all, rounded(network.head(hidden)))
        assert torch.equal(network(x), plain)
    assert not is_half(plain)
