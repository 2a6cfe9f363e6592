from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.ops import roi_align
from mmdet.models.losses.cross_entropy_loss import mask_cross_entropy
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules import SamplingResult
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptConfigType
from mmengine.config import ConfigDict
from torch import Tensor
from torch.nn.modules.utils import _pair

from ....errors import InputError
from ....structures.mask import TensorMasks, paste_masks_of_images
from ....structures.transfers import to_device, to_host
from ...layers.group_selection import filled, of_class

_LOSSES_OF_BOXES = ('loss_mask_project', 'loss_mask_box', 'loss_mask_pairwise')


class MaskTargetMixin(FCNMaskHead):
    """Training of CenterMask's FCN mask head: RoIs that are not clipped, weights of pseudo-masks, objects without mask.

    With ``train_cfg.rcnn.clip_mask_targets=False``, which CenterMask's configs set, an RoI beyond the image keeps its
    size when its target is cropped; MMDetection clips it to the image first. Further arguments are those of
    ``FCNMaskHead``.

    Args:
        loss_boxes: Config of the loss of objects that have a box and no mask, such as :class:`BoxInstLoss`. The model
            then needs a :class:`BoxSupervisedDataPreprocessor`.
    """

    def __init__(self, *args, loss_boxes: OptConfigType = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.loss_boxes: Any = None if loss_boxes is None else MODELS.build(loss_boxes)

    def get_targets(
        self, sampling_results: list[SamplingResult], batch_gt_instances: InstanceList, rcnn_train_cfg: ConfigDict
    ) -> Tensor:
        """Crop the ground-truth masks to the positive RoIs, which, like their indices, may lie on the host.

        Returns:
            Binary targets of shape (num_pos, mask_size, mask_size), float32, where ``pos_gt_labels`` lie.
        """
        device = sampling_results[0].pos_gt_labels.device
        mask_size = _pair(rcnn_train_cfg.mask_size)
        targets = []
        for (rois, gt_inds), gt_instances in zip(positives_on_host(sampling_results), batch_gt_instances):
            masks = gt_instances.masks
            if rcnn_train_cfg.get('clip_mask_targets', True):
                rois = np.clip(rois, 0, np.array([masks.width, masks.height] * 2))
            if len(rois) and isinstance(masks, TensorMasks):
                places, inds = (to_device(torch.from_numpy(part), device) for part in (rois, gt_inds))
                targets.append(masks.cropped(places, inds, mask_size))
            elif len(rois):
                binarize = not rcnn_train_cfg.get('soft_mask_target', False)
                masks = masks.crop_and_resize(rois, mask_size, device=device, inds=gt_inds, binarize=binarize)
                targets.append(torch.from_numpy(masks.to_ndarray()))
        if not targets:
            return torch.zeros((0, *mask_size), device=device)
        return to_device(torch.cat(targets), device).float()

    def loss_and_target(
        self,
        mask_preds: Tensor,
        sampling_results: list[SamplingResult],
        batch_gt_instances: InstanceList,
        rcnn_train_cfg: ConfigDict,
    ) -> dict:
        """Compute the mask losses, in float32 whatever the weights are, and the targets.

        Ground truth may have ``mask_weights``, one per object, as pseudo-labels do: they weight the pixels of the
        object's RoIs. The sum is divided by the number of all pixels, including those of weight 0. With ``loss_boxes``,
        ground truth of other images has ``has_mask``, which is such a weight; objects without mask have the losses
        of ``loss_boxes`` instead, in proportion to their share of the RoIs.
        Arguments and results are those of ``FCNMaskHead``.

        Raises:
            InputError: There are weights, and the loss is not a cross-entropy of masks, or there is no ``has_mask``.
        """
        mask_preds = mask_preds.float()
        pseudo = all('mask_weights' in gt_instances for gt_instances in batch_gt_instances)
        boxes_learnt = self.loss_boxes is not None and not pseudo
        if len(mask_preds) == 0 or not (pseudo or boxes_learnt):
            results = super().loss_and_target(mask_preds, sampling_results, batch_gt_instances, rcnn_train_cfg)
            if boxes_learnt:
                results['loss_mask'].update(dict.fromkeys(_LOSSES_OF_BOXES, mask_preds.sum()))
            return results
        if not getattr(self.loss_mask, 'use_mask', False):
            raise InputError(
                f'mask_head.loss_mask: {type(self.loss_mask).__name__} cannot weight masks, as pseudo-labels and '
                "boxes require: set it to dict(type='CrossEntropyLoss', use_mask=True)"
            )
        if boxes_learnt and not all('has_mask' in gt_instances for gt_instances in batch_gt_instances):
            raise InputError(
                'mask_head.loss_boxes: the data do not say which objects have a mask: set '
                "model.data_preprocessor.type='BoxSupervisedDataPreprocessor'"
            )
        mask_targets = self.get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        labels = torch.cat([result.pos_gt_labels for result in sampling_results])
        if self.class_agnostic:
            labels = torch.zeros_like(labels)
        weights = torch.cat(
            [
                (gt_instances.mask_weights if pseudo else gt_instances.has_mask)[result.pos_assigned_gt_inds]
                for result, gt_instances in zip(sampling_results, batch_gt_instances)
            ]
        )
        loss_mask = mask_cross_entropy(
            mask_preds, mask_targets, labels, class_weight=weights.to(mask_preds)[:, None, None]
        )
        losses = dict(loss_mask=self.loss_mask.loss_weight * loss_mask)
        if boxes_learnt:
            without_mask = (~weights).nonzero().squeeze(1)
            preds = mask_preds[without_mask, labels[without_mask]]
            losses.update(self._loss_of_boxes(preds, without_mask, sampling_results, batch_gt_instances))
        return dict(loss_mask=losses, mask_targets=mask_targets)

    def _loss_of_boxes(
        self,
        mask_preds: Tensor,
        without_mask: Tensor,
        sampling_results: list[SamplingResult],
        batch_gt_instances: InstanceList,
    ) -> dict:
        """The losses of the RoIs ``without_mask``, indices (n, ), whose logits are ``mask_preds`` (n, h, w)."""
        if len(mask_preds) == 0:
            return dict.fromkeys(_LOSSES_OF_BOXES, mask_preds.sum())
        rois, bboxes = (
            to_device(torch.cat([getattr(result, name) for result in sampling_results]), mask_preds.device)
            for name in ('pos_priors', 'pos_gt_bboxes')
        )
        num_per_img = [len(result.pos_priors) for result in sampling_results]
        images = torch.arange(len(num_per_img)).repeat_interleave(torch.tensor(num_per_img))[without_mask.cpu()]
        rois, bboxes = rois[without_mask], bboxes[without_mask]
        crops = [
            roi_align(gt_instances.lab_images[0][None], F.pad(rois[images == image], (1, 0)), mask_preds.shape[1:])
            for image, gt_instances in enumerate(batch_gt_instances)
            if (images == image).any()
        ]
        share = len(mask_preds) / sum(num_per_img)
        losses = self.loss_boxes(mask_preds, rois, bboxes, torch.cat(crops))
        return {name: share * loss for name, loss in losses.items()}


def positives_on_host(sampling_results: list[SamplingResult]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The positive RoIs (n, 4) of each image, and the index of the object of each (n, )."""
    tensors = [tensor for result in sampling_results for tensor in (result.pos_priors, result.pos_assigned_gt_inds)]
    arrays = [tensor.numpy() for tensor in to_host(tensors)]
    return list(zip(arrays[::2], arrays[1::2]))


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
        rescale: bool = False,
        activate_map: bool = False,
    ) -> InstanceList:
        """Add masks to detections.

        Arguments and results are those of ``FCNMaskHead``, with two additions: masks are :class:`RLEMasks` if
        ``rcnn_test_cfg.rle_masks`` is set, and ``mask_preds`` may have one channel, that of each detection's class.
        """
        if not rcnn_test_cfg.get('rle_masks', False) or rcnn_test_cfg.mask_thr_binary < 0:
            return super().predict_by_feat(
                mask_preds, results_list, batch_img_metas, rcnn_test_cfg, rescale=rescale, activate_map=activate_map
            )
        factors = np.array([img_meta['scale_factor'] for img_meta in batch_img_metas], np.float32)
        sizes = [tuple(img_meta['ori_shape'][:2]) for img_meta in batch_img_metas]
        if rescale:
            for results, factor in zip(results_list, filled(results_list[0].bboxes, np.tile(factors, 2).tolist())):
                # In place, as in FCNMaskHead.
                results.bboxes /= factor
        else:
            sizes = [(round(h * float(y)), round(w * float(x))) for (h, w), (x, y) in zip(sizes, factors)]
        found = [i for i, results in enumerate(results_list) if len(results)]
        boxes = results_list[0].bboxes.new_zeros(0, 4)
        probs = boxes.new_zeros(0, 1, 1)
        if found:
            boxes, labels = (torch.cat([results_list[i][key] for i in found]) for key in ('bboxes', 'labels'))
            logits = torch.cat([torch.as_tensor(mask_preds[i], device=boxes.device) for i in found])
            probs = of_class(logits, labels)
            probs = probs if activate_map else probs.sigmoid()
        num_per_img = [len(results) for results in results_list]
        masks = paste_masks_of_images(probs, boxes, num_per_img, sizes, rcnn_test_cfg.mask_thr_binary)
        for results, masks_of_img in zip(results_list, masks):
            results.masks = masks_of_img
        return results_list

    def _predict_by_feat_single(self, mask_preds: Tensor, bboxes: Tensor, labels: Tensor, *args, **kwargs) -> Tensor:
        labels = torch.zeros_like(labels) if mask_preds.shape[1] == 1 else labels
        return super()._predict_by_feat_single(mask_preds, bboxes, labels, *args, **kwargs)
