"""The door of the CPU engine: prepare a detector, and give it back."""

from copy import deepcopy

import torch
from mmcv.cnn import ConvAWS2d
from mmcv.ops import DeformConv2d, ModulatedDeformConv2d
from mmdet.models.detectors import BaseDetector
from torch import nn

from ..models.backbones.vovnet import OSABlock
from ..models.detectors import CenterMask
from ..models.layers import fold_batch_norms
from ..models.roi_heads.roi_extractors import ScaleAdaptiveRoIExtractor
from .replacements import DirectProjection, EmbeddingBagRoIAlign, FormatConversion, FrozenBatchNorm, Replacement
from .winograd_conv import WinogradConv


def prepare_for_inference(
    detector: BaseDetector,
    fuse_conv_bn: bool = True,
    channels_last: bool = True,
    winograd: bool = True,
    compile: bool = False,
) -> None:
    """Prepare a detector for inference, on any device; an earlier preparation is undone first.

    Copies of backbone and neck, changed for speed, compute the features. Parameters and state dict stay as they are, so
    that EMA finds them, but a change of the weights has no effect until :func:`give_back`. Float32 results differ by
    rounding only.

    Args:
        detector: The detector, in evaluation mode, its weights loaded.
        fuse_conv_bn: Whether batch norms are folded into the convs before them.
        channels_last: Whether features are in channels-last memory format: the channels of a pixel lie side by side.
            The heads of a :class:`CenterMask` follow; other heads get contiguous features.
        winograd: Whether wide 3x3 convs on a CPU are :class:`WinogradConv`; not without ``channels_last`` or with
            ``compile``.
        compile: Whether ``torch.compile`` optimizes backbone, neck and box head, at their first input and for any size.
    """
    give_back(detector)
    winograd = winograd and channels_last and not compile
    heads_follow = channels_last and isinstance(detector, CenterMask)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    parts = _backbone_and_neck(detector)
    for part in parts:
        copy = deepcopy(part)
        # Not chained: MMDetection's ResNet.train returns nothing.
        copy.eval()
        # DetectoRS standardises weights in each forward, which would undo the folding.
        if fuse_conv_bn and not any(isinstance(module, ConvAWS2d) for module in copy.modules()):
            fold_batch_norms(copy)
        copy.requires_grad_(False)
        copy.to(memory_format=memory_format)
        _install(copy, winograd, frozen=True)
        if compile:
            copy.compile(dynamic=None)
        outputs = torch.contiguous_format if part is parts[-1] and not heads_follow else None
        FormatConversion(part, memory_format, outputs, substitute=copy).install()
    for head in _others(detector, parts) if heads_follow else ():
        head.to(memory_format=memory_format)
        _install(head, winograd, frozen=True)
    if compile and _has_box_head(detector):
        detector.bbox_head.compile(dynamic=None)


def prepare_for_training(detector: BaseDetector, winograd: bool = True, compile: bool = False) -> None:
    """Prepare a detector for training; on other devices than a CPU, only frozen batch norms take less memory.

    Losses and gradients differ by rounding only; parameters and state dict stay as they are. Features are in
    channels-last memory format; the heads of a :class:`CenterMask` follow, other heads get contiguous features.

    Args:
        detector: A detector with a ``backbone`` and maybe a ``neck``.
        winograd: Whether wide 3x3 convs are :class:`WinogradConv`.
        compile: Whether, instead of all that, ``torch.compile`` optimizes backbone, neck and box head, on any device.
    """
    give_back(detector)
    if compile:
        box_head = [detector.bbox_head] if _has_box_head(detector) else []
        for part in (*_backbone_and_neck(detector), *box_head):
            part.compile(dynamic=None)
        return
    if next(detector.parameters()).device.type != 'cpu':
        for module in detector.modules():
            if type(module) is nn.BatchNorm2d:
                FrozenBatchNorm(module).install()
        return
    parts = _backbone_and_neck(detector)
    heads_follow = isinstance(detector, CenterMask)
    for part in parts:
        _install(part, winograd, frozen=False)
        outputs = torch.contiguous_format if part is parts[-1] and not heads_follow else None
        FormatConversion(part, torch.channels_last, outputs).install()
    for head in _others(detector, parts) if heads_follow else ():
        _install(head, winograd, frozen=False)


def give_back(detector: nn.Module) -> None:
    """Undo every preparation of a detector, or of a copy of one; its parameters are contiguous afterwards."""
    for module in detector.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Replacement):
                delattr(module, name)
        module._compiled_call_impl = None
    detector.to(memory_format=torch.contiguous_format)


def _install(model: nn.Module, winograd: bool, frozen: bool) -> None:
    offsets = set()
    for module in model.modules():
        if isinstance(module, (DeformConv2d, ModulatedDeformConv2d, ConvAWS2d)):
            # mmcv's kernels take all features and weights for contiguous ones, and standardising fails on others.
            module.to(memory_format=torch.contiguous_format)
            FormatConversion(module, torch.contiguous_format).install()
            offsets.update(module.children())
        elif isinstance(module, ScaleAdaptiveRoIExtractor):
            EmbeddingBagRoIAlign(module).install()
        elif isinstance(module, OSABlock):
            DirectProjection(module).install()
        elif winograd and module not in offsets and WinogradConv.suits(module):
            WinogradConv(module, frozen).install()


def _backbone_and_neck(detector: BaseDetector) -> list[nn.Module]:
    return [detector.backbone, *([detector.neck] if detector.with_neck else [])]


def _has_box_head(detector: BaseDetector) -> bool:
    # A two-stage detector's is a part of its RoI head.
    return isinstance(getattr(detector, 'bbox_head', None), nn.Module)


def _others(detector: BaseDetector, parts: list[nn.Module]) -> list[nn.Module]:
    return [child for child in detector.children() if child not in parts]
