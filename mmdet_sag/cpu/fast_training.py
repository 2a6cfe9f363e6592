"""What makes a detector train faster on a CPU without changing what it learns."""

import torch
from mmdet.models.detectors import BaseDetector
from torch import Tensor, nn

from .fast_inference import keep_dcn_contiguous, use_winograd
from .frozen_batch_norm import FrozenBatchNorm


def speed_up_training(detector: BaseDetector, winograd: bool = True) -> None:
    """Let a detector on a CPU work channels last, with :class:`WinogradConv` and :class:`FrozenBatchNorm`.

    Losses and gradients differ by rounding alone; parameters and state dict stay as they are. On other devices this
    does nothing: their libraries choose their own ways. The heads of a :class:`CenterMask` follow its backbone and
    neck; other models' may want contiguous features, and get them.

    Args:
        detector: A detector with a ``backbone`` and maybe a ``neck``.
        winograd: Whether wide 3x3 convs are :class:`WinogradConv`.
    """
    from ..models.detectors import CenterMask

    if next(detector.parameters()).device.type != 'cpu':
        return
    detector.backbone.register_forward_pre_hook(_to_channels_last)
    for module in detector.modules():
        if FrozenBatchNorm.suits(module):
            module.forward = FrozenBatchNorm(module)
    keep_dcn_contiguous(detector)
    fast = [detector]
    if not isinstance(detector, CenterMask):
        fast = [detector.backbone, *([detector.neck] if detector.with_neck else [])]
        fast[-1].register_forward_hook(_outputs_to_contiguous)
    for part in fast if winograd else ():
        use_winograd(part, frozen=False)


def _to_channels_last(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return tuple(x.contiguous(memory_format=torch.channels_last) for x in inputs)


def _outputs_to_contiguous(module: nn.Module, inputs: tuple, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.contiguous() for x in outputs)
