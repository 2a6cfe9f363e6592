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
from ....structures.mask import RLEMasks, paste_masks_as_rle


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


class RLEMaskMixin(FCNMaskHead):
    """Post-processing of an FCN mask head that can return run-length encoded masks.

    With ``test_cfg.rcnn.rle_masks=True``, masks are :class:`RLEMasks` instead of a tensor of bitmaps: the same pixels,
    in a fraction of the time and memory. Soft masks (``mask_thr_binary`` below 0) stay bitmaps.
    """

    def predict_by_feat(
        self,
        mask_preds: tuple[Tensor, ...],
        results_list: InstanceList,
        batch_img_metas: list[dict],
        rcnn_test_cfg: ConfigDict,
        **kwargs,
    ) -> InstanceList:
        """Add masks to detections.

        Arguments and results are those of ``FCNMaskHead``, with two additions: masks are :class:`RLEMasks` if
        ``rcnn_test_cfg.rle_masks`` is set, and ``mask_preds`` may have one channel, that of each detection's class.
        """
        results_list = super().predict_by_feat(mask_preds, results_list, batch_img_metas, rcnn_test_cfg, **kwargs)
        if _uses_rle(rcnn_test_cfg):
            for results in results_list:
                # FCNMaskHead gives images without detections a tensor (0, H, W).
                if isinstance(results.masks, Tensor):
                    _, height, width = results.masks.shape
                    results.masks = RLEMasks([], height, width, results.masks.device)
        return results_list

    def _predict_by_feat_single(
        self,
        mask_preds: Tensor,
        bboxes: Tensor,
        labels: Tensor,
        img_meta: dict,
        rcnn_test_cfg: ConfigDict,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> Tensor | RLEMasks:
        if mask_preds.shape[1] == 1:
            labels = torch.zeros_like(labels)
        if not _uses_rle(rcnn_test_cfg):
            return super()._predict_by_feat_single(
                mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale=rescale, activate_map=activate_map
            )
        height, width = img_meta['ori_shape'][:2]
        scale_factor = bboxes.new_tensor(img_meta['scale_factor'])
        if rescale:
            # In place, as in FCNMaskHead: these are the boxes of the results.
            bboxes /= scale_factor.repeat(2)
        else:
            width_scale, height_scale = scale_factor.tolist()
            height, width = round(height * height_scale), round(width * width_scale)
        mask_preds = torch.as_tensor(mask_preds, device=bboxes.device)
        mask_preds = mask_preds[torch.arange(len(labels), device=labels.device), labels]
        probs = mask_preds if activate_map else mask_preds.sigmoid()
        return paste_masks_as_rle(probs, bboxes, height, width, rcnn_test_cfg.mask_thr_binary)


def _uses_rle(rcnn_test_cfg: ConfigDict) -> bool:
    return rcnn_test_cfg.get('rle_masks', False) and rcnn_test_cfg.mask_thr_binary >= 0
