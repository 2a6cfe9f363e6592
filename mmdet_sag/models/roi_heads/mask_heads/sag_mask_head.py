import torch
from mmcv.cnn.bricks.wrappers import Conv2d
from mmdet.models.roi_heads.mask_heads import FCNMaskHead, HTCMaskHead, SCNetMaskHead
from mmdet.registry import MODELS
from torch import Tensor, nn

from ....errors import InputError
from ...layers import SpatialAttention
from ...layers.group_selection import of_class
from .mask_head_mixins import MaskTargetMixin, RLEMaskMixin

# Options of mask heads that SAGMaskHead cannot replace, and the remedy.
_OTHER_HEADS = {
    'with_conv_res': "it belongs to HTCMaskHead: write type='SAGHTCMaskHead'",
    'conv_to_res': "it belongs to SCNetMaskHead: write type='SAGSCNetMaskHead'",
    **dict.fromkeys(
        ('num_fcs', 'fc_out_channels', 'downsample_factor'),
        "it belongs to PointRend's CoarseMaskHead, which is not an FCN head and has no convs for attention: keep it",
    ),
    'dynamic_conv_cfg': "it belongs to QueryInst's DynamicMaskHead, which is not an FCN head: keep it",
}


@MODELS.register_module()
class SAGMaskHead(RLEMaskMixin, MaskTargetMixin, FCNMaskHead):
    """Spatial Attention-Guided mask head (SAG-Mask) of CenterMask.

    An :class:`FCNMaskHead` whose convs end in a spatial attention module:
    RoI features -> ``num_convs`` convs with ReLU -> spatial attention -> upsampling -> one logit map per class.
    It works wherever that head does. To combine it with a subclass of that head, inherit from both, as
    :class:`SAGHTCMaskHead` does.
    Source: `CenterMask <https://arxiv.org/abs/1911.06667>`_, Section 3.3.

    Two mixins add options to MMDetection's configs: ``test_cfg.rcnn.rle_masks`` (:class:`RLEMaskMixin`),
    ``train_cfg.rcnn.clip_mask_targets`` and ``loss_boxes`` (:class:`MaskTargetMixin`).

    Args:
        attention_kernel_size: Kernel size of the spatial attention, 3 or 7.

    Raises:
        InputError: An option belongs to another mask head.
    """

    def __init__(self, *args, attention_kernel_size: int = 3, **kwargs) -> None:
        if type(self) is SAGMaskHead:
            for option in kwargs.keys() & _OTHER_HEADS.keys():
                raise InputError(f'mask_head: SAGMaskHead has no option {option}; {_OTHER_HEADS[option]}')
        super().__init__(*args, **kwargs)
        # As the last of the convs, it is part of every path that runs them.
        self.convs.append(SpatialAttention(kernel_size=attention_kernel_size))

    @property
    def spatial_attention(self) -> SpatialAttention:
        """The attention module."""
        return self.convs[-1]

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor | list[Tensor]:
        """Predict masks from RoI features (n, in_channels, h, w) and what else a head combined with this one takes.

        Returns:
            Logits of shape (n, num_classes, 2h, 2w), or the outputs of the head that this one is combined with.

        Raises:
            InputError: The RoI head passes more than features, as those of HTC and QueryInst do.
        """
        if (args or kwargs) and not isinstance(self, HTCMaskHead):
            raise InputError(
                f'mask_head: this RoI head passes more than RoI features to {type(self).__name__}; in HTC and '
                "DetectoRS-HTC write type='SAGHTCMaskHead', in QueryInst keep DynamicMaskHead, which is not an FCN head"
            )
        return super().forward(x, *args, **kwargs)

    def forward_of_class(self, x: Tensor, labels: Tensor) -> Tensor:
        """Predict the mask of one class per RoI, ``labels`` (n, ), without computing the logits of all others.

        Returns:
            Logits of shape (n, 1, 2h, 2w), equal to those of :meth:`forward` within rounding.
        """
        if self.class_agnostic:
            return self(x)
        # A head that is combined with another has more than an FCN head's layers.
        is_fcn = type(self).forward is SAGMaskHead.forward and super().forward.__func__ is FCNMaskHead.forward
        # By their method: while a model is exported, PyTorch puts modules into classes of its own.
        is_conv = type(self.conv_logits).forward in (nn.Conv2d.forward, Conv2d.forward)
        if not (is_fcn and is_conv and self.conv_logits.kernel_size == (1, 1)):
            return of_class(self(x), labels)[:, None]
        for conv in self.convs:
            x = conv(x)
        if self.upsample is not None:
            x = self.upsample(x)
            if self.upsample_method == 'deconv':
                x = self.relu(x)
        weight, bias = self.conv_logits.weight[labels].flatten(1), self.conv_logits.bias[labels]
        logits = torch.bmm(weight[:, None].to(x.dtype), x.flatten(2)) + bias[:, None, None]
        return logits.unflatten(2, x.shape[2:])


@MODELS.register_module()
class SAGHTCMaskHead(SAGMaskHead, HTCMaskHead):
    """:class:`SAGMaskHead` for HTC and DetectoRS-HTC: the next stage gets features after the spatial attention.

    It also has the options of ``HTCMaskHead``.
    """


@MODELS.register_module()
class SAGSCNetMaskHead(SAGMaskHead, SCNetMaskHead):
    """:class:`SAGMaskHead` for SCNet: the spatial attention follows the residual blocks.

    It also has the options of ``SCNetMaskHead``.
    """
