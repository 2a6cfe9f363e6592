import numpy as np
import pycocotools.mask as mask_utils
import torch
from mmdet.models.roi_heads.mask_heads import MaskIoUHead
from mmdet.models.task_modules import SamplingResult
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from torch import Tensor

from ....structures.mask import TensorMasks
from ....structures.transfers import to_device
from ...layers.group_selection import of_class
from .mask_head_mixins import positives_on_host


@MODELS.register_module()
class CenterMaskIoUHead(MaskIoUHead):
    """MaskIoU head of CenterMask.

    As :class:`mmdet.models.roi_heads.mask_heads.MaskIoUHead`, except that box scores are unchanged: the product of
    score and predicted IoU is a separate result, ``mask_scores``, by which masks are ranked.
    Source: `Mask Scoring R-CNN <https://arxiv.org/abs/1903.00241>`_.

    ``train_cfg.rcnn.mask_thr_binary`` binarises mask logits, not probabilities: CenterMask's configs set it to 0.
    """

    def loss_and_target(
        self,
        mask_iou_pred: Tensor,
        mask_preds: Tensor,
        mask_targets: Tensor,
        sampling_results: list[SamplingResult],
        batch_gt_instances: InstanceList,
        rcnn_train_cfg: ConfigDict,
    ) -> dict:
        """Compute the MaskIoU loss on the masks whose IoU is above 0, in float32 whatever the weights are.

        Arguments and results are those of ``MaskIoUHead``.
        """
        targets = self.get_targets(sampling_results, batch_gt_instances, mask_preds, mask_targets, rcnn_train_cfg)
        mask_iou_pred = mask_iou_pred.float()
        chosen = (targets > 0).nonzero().squeeze(1)
        loss = self.loss_iou(mask_iou_pred[chosen], targets[chosen]) if len(chosen) else mask_iou_pred.sum() * 0
        return dict(loss_mask_iou=loss)

    def get_targets(
        self,
        sampling_results: list[SamplingResult],
        batch_gt_instances: InstanceList,
        mask_preds: Tensor,
        mask_targets: Tensor,
        rcnn_train_cfg: ConfigDict,
    ) -> Tensor:
        """Compute the IoU (num_pos, ), in [0, 1], of each predicted mask with its whole object, seen and unseen part.

        RoIs and indices of the sampling results may lie on the host. Mask logits, of the ground-truth class, and binary
        targets have the shape (num_pos, h, w).
        """
        ratios = [
            self._get_area_ratio(torch.from_numpy(rois), torch.from_numpy(gt_inds), gt_instances.masks)
            for (rois, gt_inds), gt_instances in zip(positives_on_host(sampling_results), batch_gt_instances)
        ]
        area_ratios = to_device(torch.cat(ratios), mask_preds.device)
        mask_preds = (mask_preds > rcnn_train_cfg.mask_thr_binary).float()
        overlap = (mask_preds * mask_targets).sum((-1, -2))
        gt_area = mask_targets.sum((-1, -2)) / area_ratios.clamp(min=1e-10)
        return overlap / (mask_preds.sum((-1, -2)) + gt_area - overlap).clamp(min=1e-10)

    def _get_area_ratio(
        self, pos_proposals: Tensor, pos_assigned_gt_inds: Tensor, gt_masks: BitmapMasks | PolygonMasks
    ) -> Tensor:
        """Share of each RoI's object that lies inside the RoI, shape (num_pos, ), at most 1.

        A polygon is counted in whole pixels of the RoI over its exact area, as the reference counts it: MMDetection
        moves the RoI to whole pixels of the image instead, which shifts the target of small objects.
        """
        if isinstance(gt_masks, TensorMasks):
            device = gt_masks.bitmaps.device
            return gt_masks.shares_inside(to_device(pos_proposals, device), to_device(pos_assigned_gt_inds, device))
        if isinstance(gt_masks, BitmapMasks) or len(pos_proposals) == 0:
            # MMDetection fails on an RoI beside the image.
            last = pos_proposals.new_tensor([gt_masks.width - 1, gt_masks.height - 1])
            corners = pos_proposals[:, :2].trunc()
            rois = torch.cat([corners.minimum(last), pos_proposals[:, 2:]], dim=1)
            ratios = super()._get_area_ratio(rois, pos_assigned_gt_inds, gt_masks)
            return ratios.masked_fill((corners > last).any(dim=1), 0.0)
        gt_areas = gt_masks.areas
        ratios = []
        for (x1, y1, x2, y2), gt_ind in zip(pos_proposals.numpy(), pos_assigned_gt_inds.tolist()):
            width, height = int(x2 - x1), int(y2 - y1)
            if width == 0 or height == 0:
                ratios.append(0.0)
                continue
            # The parts of an object count on their own in both areas, also where they overlap.
            parts = [part - np.resize((x1, y1), part.shape) for part in gt_masks.masks[gt_ind]]
            inside = mask_utils.area(mask_utils.frPyObjects(parts, height, width)).sum()
            ratios.append(min(inside / max(gt_areas[gt_ind], 1e-7), 1.0))
        return pos_proposals.new_tensor(ratios)

    def predict_by_feat(self, mask_iou_preds: tuple[Tensor, ...], results_list: InstanceList) -> InstanceList:
        """Add ``mask_scores`` (n, ), the product of score and predicted IoU, to the detections of each image.

        Predicted IoU has the shape (n, num_classes); with ``num_classes=1``, it is one for all classes.
        """
        for results, mask_iou_pred in zip(results_list, mask_iou_preds):
            results.mask_scores = results.scores * of_class(mask_iou_pred, results.labels)
        return results_list
