import torch
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack
from torch import Tensor, nn

from .onnx_operators import deform_conv


class ExportableDeformConv(nn.Module):
    """What a layer of mmcv's DCN or DCNv2 computes, in an operator of ONNX.

    Args:
        conv: The layer.
    """

    def __init__(self, conv: DeformConv2dPack | ModulatedDeformConv2dPack) -> None:
        super().__init__()
        self.conv = conv
        self.modulated = isinstance(conv, ModulatedDeformConv2dPack)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve features (N, C, H, W)."""
        conv = self.conv
        offset, mask = conv.conv_offset(x), None
        if self.modulated:
            first, second, mask = offset.chunk(3, dim=1)
            offset, mask = torch.cat([first, second], dim=1), mask.sigmoid()
        return deform_conv(
            x,
            offset,
            mask,
            conv.weight,
            getattr(conv, 'bias', None),
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            conv.deform_groups,
        )
