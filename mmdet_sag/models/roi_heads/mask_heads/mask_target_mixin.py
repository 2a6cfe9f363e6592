import torch
from mmdet.models.losses.cross_entropy_loss import mask_cross_entropy
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules import SamplingResult
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from torch import Tensor
from torch.nn.modules.utils import _pair

from ....errors import InputError


class MaskTargetMixin(FCNMaskHead):
    """Training targets of CenterMask for an FCN mask head: RoIs that are not clipped, and weights of pseudo-masks.

    With ``train_cfg.rcnn.clip_mask_targets=False``, which CenterMask's configs set, an RoI beyond the image keeps its
    size when its target is cropped; MMDetection clips it to the image first.
    """

    def get_targets(
        self, sampling_results: list[SamplingResult], batch_gt_instances: InstanceList, rcnn_train_cfg: ConfigDict
    ) -> Tensor:
        """Crop the ground-truth masks to the positive RoIs.

        Args:
            sampling_results: Sampling result of each image.
            batch_gt_instances: Ground truth of each image, with ``masks``.
            rcnn_train_cfg: ``mask_size`` and, optionally, ``clip_mask_targets`` (default True).

        Returns:
            Binary targets of shape (num_pos, mask_size, mask_size), float32.
        """
        if rcnn_train_cfg.get('clip_mask_targets', True):
            return super().get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        mask_size = _pair(rcnn_train_cfg.mask_size)
        return torch.cat(
            [
                _crop_masks(gt_instances.masks, result.pos_priors, result.pos_assigned_gt_inds, mask_size)
                for result, gt_instances in zip(sampling_results, batch_gt_instances)
            ]
        )

    def loss_and_target(
        self,
        mask_preds: Tensor,
        sampling_results: list[SamplingResult],
        batch_gt_instances: InstanceList,
        rcnn_train_cfg: ConfigDict,
    ) -> dict:
        """Compute the mask loss and its targets.

        Ground truth may have ``mask_weights``, one per object, as pseudo-labels do: they weight the pixels of the
        object's RoIs. The sum is divided by the number of all pixels, including those of weight 0.
        Arguments and results are those of ``FCNMaskHead``.

        Raises:
            InputError: There are weights, and the loss is not a cross-entropy of masks.
        """
        if len(mask_preds) == 0 or not all('mask_weights' in gt_instances for gt_instances in batch_gt_instances):
            return super().loss_and_target(mask_preds, sampling_results, batch_gt_instances, rcnn_train_cfg)
        if not getattr(self.loss_mask, 'use_mask', False):
            raise InputError(
                f'mask_head.loss_mask: {type(self.loss_mask).__name__} cannot weight masks, as pseudo-labels require: '
                "set it to dict(type='CrossEntropyLoss', use_mask=True)"
            )
        mask_targets = self.get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        labels = torch.cat([result.pos_gt_labels for result in sampling_results])
        weights = torch.cat(
            [
                gt_instances.mask_weights[result.pos_assigned_gt_inds]
                for result, gt_instances in zip(sampling_results, batch_gt_instances)
            ]
        )
        loss_mask = mask_cross_entropy(
            mask_preds,
            mask_targets,
            torch.zeros_like(labels) if self.class_agnostic else labels,
            class_weight=weights[:, None, None],
        )
        return dict(loss_mask=dict(loss_mask=self.loss_mask.loss_weight * loss_mask), mask_targets=mask_targets)


def _crop_masks(masks: BitmapMasks | PolygonMasks, rois: Tensor, gt_inds: Tensor, mask_size: tuple[int, int]) -> Tensor:
    if len(rois) == 0:
        return rois.new_zeros((0, *mask_size))
    cropped = masks.crop_and_resize(rois.cpu().numpy(), mask_size, device=rois.device, inds=gt_inds.cpu().numpy())
    return torch.from_numpy(cropped.to_ndarray()).to(rois)
