"""The structure-aware state space layer: scan, state fusion, read-out."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import KernelOps
from kernels.state_fusion.reference import DILATIONS
from model.layers import to_nchw, to_nhwc


class StateFusion(nn.Module):
    """Weights of the three dilated depthwise convolutions over the state image."""

    def __init__(self, dim: int, ops: KernelOps) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(len(DILATIONS), dim, 3, 3))
        self.scale = nn.Parameter(torch.ones(len(DILATIONS)))
        self._state_fusion = ops.state_fusion
        # starts near the identity: the centre taps of all dilations sum to one
        nn.init.normal_(self.weight, std=0.02)
        with torch.no_grad():
            self.weight[:, :, 1, 1] += 1 / len(DILATIONS)

    def forward(self, state: Tensor) -> Tensor:
        """(B, H, W, D) -> same."""
        return self._state_fusion(state, self.weight, self.scale)


class StructureAwareSSM(nn.Module):
    """Spatial-Mamba's mixer (arXiv:2410.15091v2, section 3.2, figure 3).

    in_proj -> (x, z); x: depthwise 3x3, SiLU = u; (dt, B, C) = x_proj(u); h = scan(u, dt, A, B);
    y = C * fuse(h) + D * u; LayerNorm(y) * SiLU(z) -> out_proj.

    Raises:
        ValueError: a state size other than 1, which the published models never use; the fusion
            is defined on one state image per channel.
    """

    def __init__(
        self, dim: int, *, expansion: int, state_dim: int, norm_eps: float, ops: KernelOps
    ) -> None:
        super().__init__()
        if state_dim != 1:
            raise ValueError(f"state fusion is defined for state size 1, got {state_dim}")
        inner = expansion * dim
        self.dt_rank = math.ceil(dim / 16)
        self.state_dim = state_dim
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * state_dim, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, inner, bias=False)
        self.dt_bias = nn.Parameter(_initial_dt_bias(inner))
        self.A_log = nn.Parameter(torch.zeros(inner, state_dim))
        self.D = nn.Parameter(torch.ones(inner))
        self.state_fusion = StateFusion(inner, ops)
        self.out_norm = nn.LayerNorm(inner, eps=norm_eps)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self._selective_scan = ops.selective_scan

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> same."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        u = F.silu(to_nhwc(self.conv(to_nchw(x))))
        dt, B, C = self.x_proj(u).split([self.dt_rank, self.state_dim, self.state_dim], dim=-1)
        y = C * self.state_fusion(self._states(u, dt, B)) + self.D * u
        out: Tensor = self.out_proj(self.out_norm(y) * F.silu(z))
        return out

    def _states(self, u: Tensor, dt: Tensor, B: Tensor) -> Tensor:
        """Scan in raster order: (B, H, W, D), (B, H, W, R), (B, H, W, 1) -> (B, H, W, D)."""
        states = self._selective_scan(
            u.flatten(1, 2),
            self.dt_proj(dt).flatten(1, 2),
            -torch.exp(self.A_log.float() if self.A_log.dtype.itemsize < 4 else self.A_log),
            B.flatten(1, 2),
            self.dt_bias,
            True,
        )
        return states.view(u.shape)


def _initial_dt_bias(inner: int, low: float = 1e-3, high: float = 0.1) -> Tensor:
    """Inverse softplus of step sizes spread log-uniformly over [low, high], as in Mamba."""
    dt = torch.exp(torch.rand(inner) * (math.log(high) - math.log(low)) + math.log(low))
    return dt + torch.log(-torch.expm1(-dt))
