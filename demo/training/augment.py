"""Augmentation of whole batches on the device; images are (B, 3, H, W) float, 0..255."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)


def to_float(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32, 0..255."""
    return images.permute(0, 3, 1, 2).float()


def jitter_colours(images: Tensor, *, grey: float = 0.1) -> Tensor:
    """Brightness, contrast, saturation, hue and channel gain, each image by itself.

    Args:
        grey: share of the images that lose their colour.
    """
    batch = len(images)
    device = images.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(batch, 1, 1, 1, device=device).uniform_(low, high)

    luma = images.new_tensor(_LUMA).view(1, 3, 1, 1)
    tone = (images * luma).sum(1, keepdim=True)
    saturation = uniform(0.5, 1.5)
    saturation = torch.where(torch.rand_like(saturation) < grey, 0.0, saturation)
    images = tone + (images - tone) * saturation
    images = torch.einsum("bij,bjhw->bihw", _hue_rotation(batch, 0.12, device), images)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * uniform(0.7, 1.35)
    gain = torch.empty(batch, 3, 1, 1, device=device).uniform_(0.9, 1.1)
    return (images * gain * uniform(0.75, 1.3)).clamp(0, 255)


def _hue_rotation(batch: int, turns: float, device: torch.device) -> Tensor:
    """(B, 3, 3) rotations about the grey axis by up to `turns` of a full turn either way."""
    angle = torch.empty(batch, device=device).uniform_(-turns, turns) * 2 * math.pi
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    grey = torch.full((3, 3), 1 / 3, device=device)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=device) / math.sqrt(3)
    return torch.eye(3, device=device) * cos + grey * (1 - cos) + cross * sin


def shift_and_zoom(images: Tensor, *, zoom: float = 0.25, shift: float = 0.1) -> Tensor:
    """Random flips, zooms and shifts by one resampling; borders reflect."""
    batch = len(images)
    scale = torch.empty(batch, device=images.device).uniform_(1 - zoom, 1 + zoom)
    flip = torch.where(torch.rand_like(scale) < 0.5, -1.0, 1.0)
    theta = images.new_zeros(batch, 2, 3)
    theta[:, 0, 0] = scale * flip
    theta[:, 1, 1] = scale
    theta[:, :, 2].uniform_(-shift, shift)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def erase(images: Tensor, *, share: float = 0.25) -> Tensor:
    """Fill one random rectangle of some images with noise."""
    batch, _, height, width = images.shape
    device = images.device

    def span(limit: int) -> Tensor:
        size = torch.empty(batch, 1, device=device).uniform_(0.1, 0.4) * limit
        start = torch.rand(batch, 1, device=device) * (limit - size)
        position = torch.arange(limit, device=device).unsqueeze(0)
        return (position >= start) & (position < start + size)

    chosen = torch.rand(batch, 1, 1, device=device) < share
    hole = span(height).unsqueeze(2) & span(width).unsqueeze(1) & chosen
    noise = torch.empty(batch, 3, 1, 1, device=device).uniform_(0, 255)
    return torch.where(hole.unsqueeze(1), noise + torch.randn_like(images) * 20, images)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(x - mean) / std, channels-last memory; `mean` and `std` in 0..255 units."""
    shape = (1, 3, 1, 1)
    out = (images - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)
    return out.contiguous(memory_format=torch.channels_last)


def flip_scenes(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mirror a random half of the scenes: image, maps and boxes together.

    `batch` holds image (B, H, W, 3) and any of semantic, instances (B, H, W), boxes (B, N, 4).
    """
    width = batch["image"].shape[2]
    flip = torch.rand(len(batch["image"]), device=batch["image"].device) < 0.5
    out = dict(batch)
    for name in ("image", "semantic", "instances"):
        if name in batch:
            chosen = flip.view(-1, *(1,) * (batch[name].ndim - 1))
            out[name] = torch.where(chosen, batch[name].flip(2), batch[name])
    if "boxes" in batch:
        x1, y1, x2, y2 = batch["boxes"].unbind(-1)
        mirrored = torch.stack((width - x2, y1, width - x1, y2), dim=-1)
        out["boxes"] = torch.where(flip.view(-1, 1, 1), mirrored, batch["boxes"])
    return out
