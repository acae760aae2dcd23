"""Turn a trained network into the one that is served: derived weights are computed once, here."""

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.layers import ConvNormAct
from model.ssm import StateFusion


def optimise_for_inference(network: nn.Module) -> nn.Module:
    """Fold norms and scales into the weights, in place; the network can no longer be trained.

    - BatchNorm goes into the convolution before it.
    - The three scales of each state fusion go into its kernels.
    - Convolution weights are laid out channels-last, as the activations are.

    Returns:
        the same network, in evaluation mode, without gradients.
    """
    network.eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, ConvNormAct) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()
        elif isinstance(module, StateFusion):
            module.weight.mul_(module.scale.view(-1, 1, 1, 1))
            module.scale.fill_(1.0)
    network.requires_grad_(False)
    return network.to(memory_format=torch.channels_last)
