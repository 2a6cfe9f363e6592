"""What makes a trained detector faster without changing what it gives."""

from copy import deepcopy

import torch
from mmcv.cnn import fuse_conv_bn as fuse
from mmcv.ops import DeformConv2d, ModulatedDeformConv2d
from mmdet.models.detectors import BaseDetector
from torch import Tensor, nn

from .winograd_conv import WinogradConv


class FastFeatures(nn.Module):
    """Backbone and neck of a detector, copied and prepared for inference.

    Args:
        detector: A detector with a ``backbone`` and maybe a ``neck``, its weights loaded.
        fuse_conv_bn: Whether batch norms are folded into the convs before them.
        channels_last: Whether features are in channels-last memory format, where the channels of a pixel lie side by side.
        winograd: Whether wide 3x3 convs are :class:`WinogradConv`.
        compile: Whether ``torch.compile`` optimizes them, at their first input and for any later size.
    """

    def __init__(
        self,
        detector: BaseDetector,
        fuse_conv_bn: bool = True,
        channels_last: bool = True,
        winograd: bool = True,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(deepcopy(detector.backbone))
        if detector.with_neck:
            self.layers.append(deepcopy(detector.neck))
        self.requires_grad_(False).eval()
        if fuse_conv_bn:
            fuse(self.layers)
            self.requires_grad_(False)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)
        if channels_last:
            keep_dcn_contiguous(self)
        if winograd:
            use_winograd(self)
        if compile:
            self.layers.compile(dynamic=None)

    def forward(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute the features of images (N, 3, H, W), contiguous or channels last as the options are."""
        return self.layers(batch_inputs.contiguous(memory_format=self.memory_format))


def speed_up(
    detector: BaseDetector,
    fuse_conv_bn: bool = True,
    channels_last: bool = True,
    winograd: bool = True,
    compile: bool = False,
) -> None:
    """Let a detector take its features from :class:`FastFeatures`, until :func:`slow_down`.

    Parameters, state dict and training stay as they are, so what exchanges the weights (EMA) finds them; a change of
    the weights has no effect meanwhile. Float32 results differ by rounding alone.

    Args:
        detector: The detector, in evaluation mode, its weights loaded.
        fuse_conv_bn: See :class:`FastFeatures`.
        channels_last: See :class:`FastFeatures`. The heads of a :class:`CenterMask` follow.
        winograd: See :class:`FastFeatures`. Without ``channels_last`` or with ``compile``, which would not go with it,
            it has no effect. The heads of a :class:`CenterMask` follow.
        compile: See :class:`FastFeatures`.
    """
    from ..models.detectors import CenterMask

    slow_down(detector)
    winograd = winograd and channels_last and not compile
    features = FastFeatures(detector, fuse_conv_bn, channels_last, winograd, compile)
    # Other models' RoI extractors read features as if they were contiguous.
    mixed = channels_last and not isinstance(detector, CenterMask)
    if channels_last and not mixed:
        detector.to(memory_format=torch.channels_last)
        if winograd:
            use_winograd(detector.bbox_head)
            use_winograd(detector.roi_head)

    def extract_feat(batch_inputs: Tensor) -> tuple[Tensor, ...]:
        feats = features(batch_inputs)
        return tuple(feat.contiguous() for feat in feats) if mixed else feats

    # An attribute, not a module: the detector's parameters are not to grow.
    detector.extract_feat = extract_feat


def slow_down(detector: BaseDetector) -> None:
    """Undo :func:`speed_up`."""
    vars(detector).pop('extract_feat', None)
    for module in detector.modules():
        if isinstance(vars(module).get('forward'), WinogradConv):
            del module.forward


def use_winograd(model: nn.Module, frozen: bool = True) -> None:
    """Let the convs of a model that :class:`WinogradConv` suits be computed by it, where this is of use: on a CPU.

    Args:
        model: The model.
        frozen: Whether the weights stay as they are, see :class:`WinogradConv`.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.device.type == 'cpu' and WinogradConv.suits(module):
            module.forward = WinogradConv(module, frozen)


def keep_dcn_contiguous(model: nn.Module) -> None:
    """Give deformable convs contiguous features and weights: mmcv's kernels read any as if they were."""
    for module in model.modules():
        if isinstance(module, (DeformConv2d, ModulatedDeformConv2d)):
            module.to(memory_format=torch.contiguous_format)
            module.register_forward_pre_hook(_make_contiguous)


def _make_contiguous(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.contiguous() for x in inputs)
