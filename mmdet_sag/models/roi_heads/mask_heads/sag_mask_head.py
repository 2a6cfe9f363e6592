from typing import Union

import numpy as np
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules import SamplingResult
from mmdet.registry import MODELS
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ....structures.mask import RLEMasks, paste_masks_as_rle
from ...layers import SpatialAttention


@MODELS.register_module()
class SAGMaskHead(FCNMaskHead):
    """Spatial Attention-Guided mask head (SAG-Mask) of CenterMask.

    An :class:`FCNMaskHead` whose convs end in a spatial attention module, so it works wherever that head does:
    RoI features -> ``num_convs`` convs with ReLU -> spatial attention -> upsampling -> one logit map per class.
    Source: `CenterMask <https://arxiv.org/abs/1911.06667>`_, Section 3.3.

    ``train_cfg.rcnn`` may hold ``clip_mask_targets`` (default True, as in MMDetection): whether an RoI is clipped to
    the image before its target is cropped. CenterMask's configs set it to False, like the reference.

    ``test_cfg.rcnn`` may hold ``rle_masks`` (default False): whether masks are :class:`RLEMasks`, the same bit by bit,
    which takes a fraction of the time and memory, instead of a tensor of bitmaps. CenterMask's configs set it to True.
    Soft masks, of a ``mask_thr_binary`` below 0, stay bitmaps.

    Args:
        *args: As in ``FCNMaskHead``.
        attention_kernel_size: Kernel size of the spatial attention, 3 or 7.
        **kwargs: As in ``FCNMaskHead``.
    """

    def __init__(self, *args, attention_kernel_size: int = 3, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        # As the last of the convs, it is part of every path that runs them.
        self.convs.append(SpatialAttention(kernel_size=attention_kernel_size))

    @property
    def spatial_attention(self) -> SpatialAttention:
        """The head's attention module."""
        return self.convs[-1]

    def forward_of_class(self, x: Tensor, labels: Tensor) -> Tensor:
        """Predict the masks of one class per RoI, without the logits of all others.

        Args:
            x: RoI features of shape (n, in_channels, h, w).
            labels: The RoIs' classes, shape (n, ).

        Returns:
            Logits of shape (n, 1, 2h, 2w), those of :meth:`forward` up to rounding.
        """
        if self.class_agnostic or type(self.conv_logits) is not nn.Conv2d or self.conv_logits.kernel_size != (1, 1):
            logits = self(x)
            return logits if self.class_agnostic else logits[torch.arange(len(labels)), labels][:, None]
        for conv in self.convs:
            x = conv(x)
        if self.upsample is not None:
            x = self.upsample(x)
            if self.upsample_method == 'deconv':
                x = self.relu(x)
        weight, bias = self.conv_logits.weight[labels].flatten(1), self.conv_logits.bias[labels]
        logits = torch.bmm(weight[:, None].to(x.dtype), x.flatten(2)) + bias[:, None, None]
        return logits.unflatten(2, x.shape[2:])

    def predict_by_feat(
        self,
        mask_preds: tuple[Tensor, ...],
        results_list: InstanceList,
        batch_img_metas: list[dict],
        rcnn_test_cfg: ConfigDict,
        **kwargs,
    ) -> InstanceList:
        """Add masks to detections.

        Arguments and results are those of ``FCNMaskHead``, but for ``rle_masks``, and but that ``mask_preds`` may be
        those of :meth:`forward_of_class`.
        """
        results_list = super().predict_by_feat(mask_preds, results_list, batch_img_metas, rcnn_test_cfg, **kwargs)
        return encode_empty_masks(results_list, rcnn_test_cfg)

    def _predict_by_feat_single(
        self,
        mask_preds: Tensor,
        bboxes: Tensor,
        labels: Tensor,
        img_meta: dict,
        rcnn_test_cfg: ConfigDict,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> Union[Tensor, RLEMasks]:
        if mask_preds.shape[1] == 1:
            labels = torch.zeros_like(labels)
        if not gives_rle_masks(rcnn_test_cfg):
            return super()._predict_by_feat_single(
                mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale=rescale, activate_map=activate_map
            )
        height, width = img_meta['ori_shape'][:2]
        scale_factor = bboxes.new_tensor(img_meta['scale_factor'])
        if rescale:
            # In place, as FCNMaskHead does: these boxes are the results'.
            bboxes /= scale_factor.repeat(2)
        else:
            width_scale, height_scale = scale_factor.tolist()
            height, width = int(np.round(height * height_scale)), int(np.round(width * width_scale))
        mask_preds = torch.as_tensor(mask_preds, device=bboxes.device)
        index = torch.arange(len(labels), device=labels.device)
        mask_preds = mask_preds[index, labels]
        probs = mask_preds if activate_map else mask_preds.sigmoid()
        return paste_masks_as_rle(probs, bboxes, height, width, rcnn_test_cfg.mask_thr_binary)

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


def gives_rle_masks(rcnn_test_cfg: ConfigDict) -> bool:
    """Whether the test config of a RoI head asks for :class:`RLEMasks`."""
    return rcnn_test_cfg.get('rle_masks', False) and rcnn_test_cfg.mask_thr_binary >= 0


def encode_empty_masks(results_list: InstanceList, rcnn_test_cfg: ConfigDict) -> InstanceList:
    """Give the images without detections, which have a tensor (0, H, W), the type of masks that the others have."""
    if gives_rle_masks(rcnn_test_cfg):
        for results in results_list:
            if isinstance(results.masks, Tensor):
                results.masks = RLEMasks([], *results.masks.shape[1:])
    return results_list
