"""The authors' parameter names -> ours: one table of renames, and one stacking."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from exporters.errors import ConversionError
from exporters.inert_objects import shown

_BLOCK: Final = r"backbone\.layers\.(\d+)\.blocks\.(\d+)\."
_OUR_BLOCK: Final = r"backbone.stages.\1.\2."

# (pattern for the start of an official key, what replaces it); the first that fits wins
_RENAMES: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"backbone\.patch_embed\.conv1\.", "backbone.stem.reduce."),
        (r"backbone\.patch_embed\.conv2\.", "backbone.stem.residual."),
        (r"backbone\.patch_embed\.conv3\.", "backbone.stem.project."),
        (_BLOCK + r"cpe([12])\.", _OUR_BLOCK + r"position\3."),
        (_BLOCK + r"ln_([12])\.", _OUR_BLOCK + r"norm\3."),
        (_BLOCK + r"mlp\.", _OUR_BLOCK + "mlp."),
        (_BLOCK + r"self_attention\.x_proj_weight$", _OUR_BLOCK + "mixer.x_proj.weight"),
        (_BLOCK + r"self_attention\.dt_projs_weight$", _OUR_BLOCK + "mixer.dt_proj.weight"),
        (_BLOCK + r"self_attention\.dt_projs_bias$", _OUR_BLOCK + "mixer.dt_bias"),
        (_BLOCK + r"self_attention\.A_logs$", _OUR_BLOCK + "mixer.A_log"),
        (_BLOCK + r"self_attention\.Ds$", _OUR_BLOCK + "mixer.D"),
        (_BLOCK + r"self_attention\.conv2d\.", _OUR_BLOCK + "mixer.conv."),
        (
            _BLOCK + r"self_attention\.(in_proj|out_norm|out_proj)\.",
            _OUR_BLOCK + r"mixer.\3.",
        ),
        (
            _BLOCK + r"self_attention\.state_fusion\.alpha$",
            _OUR_BLOCK + "mixer.state_fusion.scale",
        ),
        (r"backbone\.layers\.(\d+)\.downsample\.conv\.0\.", r"backbone.downsamples.\1.expand."),
        (r"backbone\.layers\.(\d+)\.downsample\.conv\.1\.", r"backbone.downsamples.\1.depthwise."),
        (r"backbone\.layers\.(\d+)\.downsample\.conv\.2\.", r"backbone.downsamples.\1.project."),
        (r"backbone\.outnorm(\d+)\.", r"backbone.output_norms.\1."),
        (r"(norm|head)\.(weight|bias)$", r"\1.\2"),
        (r"neck\.lateral_convs\.(\d+)\.conv\.", r"fpn.laterals.\1."),
        (r"neck\.fpn_convs\.(\d+)\.conv\.", r"fpn.outputs.\1."),
        (r"rpn_head\.rpn_conv\.", "rpn.conv."),
        (r"rpn_head\.rpn_cls\.", "rpn.objectness."),
        (r"rpn_head\.rpn_reg\.", "rpn.deltas."),
        (r"roi_head\.bbox_head\.shared_fcs\.0\.", "box_head.fc1."),
        (r"roi_head\.bbox_head\.shared_fcs\.1\.", "box_head.fc2."),
        (r"roi_head\.bbox_head\.fc_cls\.", "box_head.classify."),
        (r"roi_head\.bbox_head\.fc_reg\.", "box_head.regress."),
        (r"roi_head\.mask_head\.convs\.(\d+)\.conv\.", r"mask_head.convs.\1."),
        (r"roi_head\.mask_head\.upsample\.", "mask_head.upsample."),
        (r"roi_head\.mask_head\.conv_logits\.", "mask_head.classify."),
        (r"decode_head\.conv_seg\.", "head.classify."),
        (r"decode_head\.psp_modules\.(\d+)\.1\.conv\.", r"head.pyramid_pooling.branches.\1.conv."),
        (r"decode_head\.psp_modules\.(\d+)\.1\.bn\.", r"head.pyramid_pooling.branches.\1.norm."),
        (r"decode_head\.bottleneck\.conv\.", "head.pyramid_pooling.bottleneck.conv."),
        (r"decode_head\.bottleneck\.bn\.", "head.pyramid_pooling.bottleneck.norm."),
        (r"decode_head\.lateral_convs\.(\d+)\.conv\.", r"head.laterals.\1.conv."),
        (r"decode_head\.lateral_convs\.(\d+)\.bn\.", r"head.laterals.\1.norm."),
        (r"decode_head\.fpn_convs\.(\d+)\.conv\.", r"head.outputs.\1.conv."),
        (r"decode_head\.fpn_convs\.(\d+)\.bn\.", r"head.outputs.\1.norm."),
        (r"decode_head\.fpn_bottleneck\.conv\.", "head.fuse.conv."),
        (r"decode_head\.fpn_bottleneck\.bn\.", "head.fuse.norm."),
    )
)
# the three depthwise kernels, (C, 1, 3, 3) each, in the order of the dilations 1, 3, 5
_KERNEL: Final = re.compile(_BLOCK + r"self_attention\.state_fusion\.kernel_3(|_1|_2)$")
_KERNEL_SUFFIXES: Final = ("", "_1", "_2")
# used in training only
_DROPPED: Final = ("auxiliary_head.",)


@dataclass(frozen=True, slots=True)
class KeyMapping:
    """Where the parameters of our model lie in an official state dict.

    Attributes:
        renamed: our key -> official key.
        stacked: our key -> the official keys of the three kernels of a state fusion; missing
            ones are None.
        dropped: official keys that inference does not use.
        unknown: official keys that the table does not know.
    """

    renamed: Mapping[str, str]
    stacked: Mapping[str, tuple[str | None, ...]]
    dropped: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def used(self) -> tuple[str, ...]:
        """The official keys that have to be read."""
        parts = [part for kernels in self.stacked.values() for part in kernels if part]
        return (*self.renamed.values(), *parts)


def map_keys(official: Iterable[str]) -> KeyMapping:
    """Sort the keys of an official state dict, of any task and size."""
    renamed: dict[str, str] = {}
    stacked: dict[str, list[str | None]] = {}
    dropped: list[str] = []
    unknown: list[str] = []
    for key in official:
        full = _with_backbone_prefix(key)
        kernel = _KERNEL.match(full)
        if kernel:
            ours = kernel.expand(_OUR_BLOCK + "mixer.state_fusion.weight")
            kernels = stacked.setdefault(ours, [None] * len(_KERNEL_SUFFIXES))
            kernels[_KERNEL_SUFFIXES.index(kernel.group(3))] = key
        elif key.startswith(_DROPPED):
            dropped.append(key)
        elif (name := _renamed(full)) is not None:
            renamed[name] = key
        else:
            unknown.append(key)
    stacks = {ours: tuple(kernels) for ours, kernels in stacked.items()}
    return KeyMapping(renamed, stacks, tuple(dropped), tuple(unknown))


def rename_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An official state dict under our keys.

    Raises:
        ConversionError: keys that the table does not know, or a kernel of a state fusion missing;
            whether the result is complete is for `model.checkpoint.load_weights` to say.
    """
    mapping = map_keys(state)
    check_mapping(mapping)
    renamed = {ours: state[key] for ours, key in mapping.renamed.items()}
    stacked = {
        ours: stack_kernels([state[key] for key in kernels if key is not None])
        for ours, kernels in mapping.stacked.items()
    }
    return renamed | stacked


def stack_kernels(kernels: list[Tensor]) -> Tensor:
    """Three (C, 1, 3, 3) -> (3, C, 3, 3)."""
    return torch.stack([kernel.squeeze(1) for kernel in kernels])


def check_mapping(mapping: KeyMapping) -> None:
    """Refuse what cannot be mapped.

    Raises:
        ConversionError: names the keys.
    """
    if mapping.unknown:
        first = ", ".join(map(shown, mapping.unknown[:5]))
        raise ConversionError(
            f"{len(mapping.unknown)} keys are not those of a Spatial-Mamba model, first: {first}"
        )
    incomplete = [ours for ours, kernels in mapping.stacked.items() if None in kernels]
    if incomplete:
        raise ConversionError(
            f"{incomplete[0]} needs kernel_3, kernel_3_1 and kernel_3_2, "
            f"found {mapping.stacked[incomplete[0]]}"
        )


def _with_backbone_prefix(key: str) -> str:
    # classification files hold the backbone at the top
    return f"backbone.{key}" if key.startswith(("patch_embed.", "layers.")) else key


def _renamed(key: str) -> str | None:
    for pattern, replacement in _RENAMES:
        match = pattern.match(key)
        if match:
            return match.expand(replacement) + key[match.end() :]
    return None
