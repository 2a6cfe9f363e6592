from typing import Union

import torch
import torch.nn.functional as F
from mmdet.models.roi_heads.mask_heads import FCNMaskHead, HTCMaskHead
from mmdet.models.task_modules import SamplingResult
from mmdet.registry import MODELS
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from torch import Tensor
from torch.nn.modules.utils import _pair

from ....errors import InputError
from ...layers import SpatialAttention

# Options of mask heads that an FCN head does not stand in for, and what to do where they are met.
_OTHER_HEADS = {
    'with_conv_res': "HTCMaskHead has one: write type='SAGHTCMaskHead'",
    'conv_to_res': "SCNetMaskHead has one: write type='SAGSCNetMaskHead'",
    **dict.fromkeys(
        ('num_fcs', 'fc_out_channels', 'downsample_factor'),
        "PointRend's CoarseMaskHead has one, which is no FCN head: keep it, it has no convs to put attention behind",
    ),
    'dynamic_conv_cfg': "QueryInst's DynamicMaskHead has one, which is no FCN head: keep it",
}


@MODELS.register_module()
class SAGMaskHead(FCNMaskHead):
    """Spatial Attention-Guided mask head (SAG-Mask) of CenterMask.

    An :class:`FCNMaskHead` whose convs end in a spatial attention module, so it works wherever that head does:
    RoI features -> ``num_convs`` convs with ReLU -> spatial attention -> upsampling -> one logit map per class.
    Subclasses of that head are combined with it by inheritance, as :class:`SAGHTCMaskHead` is.
    Source: `CenterMask <https://arxiv.org/abs/1911.06667>`_, Section 3.3.

    ``train_cfg.rcnn`` may hold ``clip_mask_targets`` (default True, as in MMDetection): whether an RoI is clipped to
    the image before its target is cropped. CenterMask's configs set it to False, like the reference.

    ``test_cfg.rcnn`` may hold ``inclusive_boxes`` (default False): whether boxes end at their last pixel, and masks are
    pasted into whole pixels, as in CenterMask's first implementation.

    Args:
        *args: As in ``FCNMaskHead``.
        attention_kernel_size: Kernel size of the spatial attention, 3 or 7.
        **kwargs: As in ``FCNMaskHead``.

    Raises:
        InputError: An option belongs to a mask head that is none, or needs a subclass of this one.
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
        """The head's attention module."""
        return self.convs[-1]

    def forward(self, x: Tensor, *args, **kwargs) -> Union[Tensor, list[Tensor]]:
        """Predict masks.

        Args:
            x: RoI features of shape (n, in_channels, h, w).
            *args: What the head that this one is combined with takes.
            **kwargs: What the head that this one is combined with takes.

        Returns:
            Logits of shape (n, num_classes, 2h, 2w), or what the head that this one is combined with returns.

        Raises:
            InputError: The RoI head gives more than features, as that of HTC or QueryInst does.
        """
        if (args or kwargs) and not isinstance(self, HTCMaskHead):
            raise InputError(
                f'mask_head: this RoI head gives {type(self).__name__} more than RoI features; in HTC and DetectoRS-HTC'
                " write type='SAGHTCMaskHead', in QueryInst keep DynamicMaskHead, which is no FCN head"
            )
        return super().forward(x, *args, **kwargs)

    def get_targets(
        self, sampling_results: list[SamplingResult], batch_gt_instances: InstanceList, rcnn_train_cfg: ConfigDict
    ) -> Tensor:
        """Crop the ground-truth masks to the positive RoIs.

        Args:
            sampling_results: Sampling result of each image.
            batch_gt_instances: Ground truth of each image, with ``masks``.
            rcnn_train_cfg: Config with ``mask_size`` and maybe ``clip_mask_targets``.

        Returns:
            Binary targets of shape (num_pos, mask_size, mask_size), float32.
        """
        if rcnn_train_cfg.get('clip_mask_targets', True):
            return super().get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        targets = []
        for result, gt_instances in zip(sampling_results, batch_gt_instances):
            rois = result.pos_priors
            mask_size = _pair(rcnn_train_cfg.mask_size)
            if len(rois) == 0:
                targets.append(rois.new_zeros((0, *mask_size)))
                continue
            cropped = gt_instances.masks.crop_and_resize(
                rois.cpu().numpy(), mask_size, device=rois.device, inds=result.pos_assigned_gt_inds.cpu().numpy()
            )
            targets.append(torch.from_numpy(cropped.to_ndarray()).to(rois))
        return torch.cat(targets)

    def _predict_by_feat_single(
        self,
        mask_preds: Tensor,
        bboxes: Tensor,
        labels: Tensor,
        img_meta: dict,
        rcnn_test_cfg: ConfigDict,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> Tensor:
        if rcnn_test_cfg.get('inclusive_boxes', False):
            if rescale:
                # In place, as in the method that this one replaces.
                bboxes /= bboxes.new_tensor(img_meta['scale_factor']).repeat(2)
            img_meta = dict(ori_shape=img_meta['ori_shape' if rescale else 'img_shape'], scale_factor=(1.0, 1.0))
            rescale = False
            mask_preds, bboxes = _ring_with_zeros(mask_preds, 0.0 if activate_map else -float('inf'), bboxes)
        return super()._predict_by_feat_single(
            mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale=rescale, activate_map=activate_map
        )


def _ring_with_zeros(mask_preds: Tensor, zero: float, bboxes: Tensor) -> tuple[Tensor, Tensor]:
    """Surround masks by a ring of ``zero`` and enlarge their boxes alike, to the whole pixels that they touch.

    Sampled at the centres of these pixels, the masks are what resizing each of them to its box gives.
    """
    height, width = mask_preds.shape[-2:]
    scale = bboxes.new_tensor([(width + 2) / width, (height + 2) / height])
    half_size = (bboxes[:, 2:] - bboxes[:, :2]) * 0.5 * scale
    center = (bboxes[:, 2:] + bboxes[:, :2]) * 0.5
    first, last = (center - half_size).trunc(), (center + half_size).trunc()
    return F.pad(mask_preds, (1, 1, 1, 1), value=zero), torch.cat([first, last + 1], dim=1)
