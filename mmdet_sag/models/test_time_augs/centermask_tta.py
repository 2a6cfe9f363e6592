from collections.abc import Sequence
from typing import Optional

import torch
from mmcv.ops import batched_nms
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox_flip
from mmengine.structures import InstanceData
from torch import Tensor

FLIPPED_DIMS = {'horizontal': [-1], 'vertical': [-2], 'diagonal': [-2, -1]}


@MODELS.register_module()
class CenterMaskTTAModel(DetTTAModel):
    """Test-time augmentation of CenterMask, masks included.

    The boxes of all views are merged by NMS; each view then predicts the masks and mask IoUs of the merged boxes, and
    these are averaged over the views, as probabilities.

    Args:
        tta_cfg: ``nms``, the config of the NMS, and ``max_per_img``, the number of detections to keep.
        **kwargs: As in ``BaseTTAModel``: the detector, ``module``.
    """

    @torch.no_grad()
    def test_step(self, data: dict) -> SampleList:
        """Predict on a batch of augmented images.

        Args:
            data: ``inputs`` and ``data_samples``; each is a list over views of lists over images.

        Returns:
            One data sample per image, as :meth:`CenterMask.predict` returns it with ``rescale=True``.
        """
        views = self._predict_views(data)
        return self.module.add_pred_to_datasample(views[0][1], self._merge_instances(views))

    def _predict_views(self, data: dict) -> list[tuple]:
        """FPN features, data samples and detections of each view."""
        views = []
        for inputs, data_samples in zip(data['inputs'], data['data_samples']):
            batch = self.module.data_preprocessor(dict(inputs=inputs, data_samples=data_samples), False)
            feats = self.module.extract_feat(batch['inputs'])
            results_list = self.module.bbox_head.predict(self.module.instance_feats(feats), batch['data_samples'])
            views.append((feats, batch['data_samples'], results_list))
        return views

    def _merge_instances(self, views: list[tuple]) -> list[InstanceData]:
        """Instances of each image, in the original image's frame."""
        num_imgs = len(views[0][1])
        merged = [
            self._merge_boxes([(samples[i], results[i]) for _, samples, results in views]) for i in range(num_imgs)
        ]
        batch_img_metas = [
            dict(ori_shape=sample.ori_shape, img_shape=sample.ori_shape, scale_factor=(1.0, 1.0))
            for sample in views[0][1]
        ]
        mask_probs, mask_iou_preds = zip(
            *(self._predict_masks(self.module.instance_feats(feats), samples, merged) for feats, samples, _ in views)
        )
        has_mask_iou = self.module.roi_head.mask_iou_head is not None
        return self.module.roi_head.predict_by_feat(
            (sum(mask_probs) / len(views)).logit(),
            sum(mask_iou_preds) / len(views) if has_mask_iou else None,
            merged,
            batch_img_metas,
            rescale=True,
        )

    def _merge_boxes(self, views: list[tuple]) -> InstanceData:
        """Merge the detections of one image's views, in the original image's frame."""
        bboxes, scores = self.merge_aug_bboxes(
            [results.bboxes / results.bboxes.new_tensor(sample.scale_factor * 2) for sample, results in views],
            [results.scores for _, results in views],
            [dict(sample.metainfo, ori_shape=self._mirror(sample.ori_shape)) for sample, _ in views],
        )
        labels = torch.cat([results.labels for _, results in views])
        if len(bboxes) == 0:
            return InstanceData(bboxes=bboxes, scores=scores, labels=labels)
        dets, keep = batched_nms(bboxes, scores, labels, self.tta_cfg.nms)
        keep = keep[: self.tta_cfg.max_per_img]
        return InstanceData(bboxes=bboxes[keep], scores=dets[: len(keep), -1], labels=labels[keep])

    def _predict_masks(
        self, feats: tuple[Tensor, ...], data_samples: SampleList, merged: list[InstanceData]
    ) -> tuple[Tensor, Optional[Tensor]]:
        """Mask probabilities and IoUs that one view predicts for the merged boxes, upright."""
        view_results = []
        for sample, results in zip(data_samples, merged):
            bboxes = results.bboxes * results.bboxes.new_tensor(sample.scale_factor * 2)
            if sample.flip:
                bboxes = bbox_flip(bboxes, self._mirror(sample.img_shape), sample.flip_direction)
            view_results.append(InstanceData(bboxes=bboxes, labels=results.labels))
        mask_preds, mask_iou_preds = self.module.roi_head(feats, view_results, data_samples)
        upright = [
            probs.flip(FLIPPED_DIMS[sample.flip_direction]) if sample.flip else probs
            for sample, probs in zip(data_samples, mask_preds.sigmoid().split([len(results) for results in merged]))
        ]
        return torch.cat(upright), mask_iou_preds

    def _mirror(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Height and width that flip boxes: coordinates of pixels, of inclusive boxes, lie between 0 and side - 1."""
        extent = int(self.module.test_cfg.rcnn.get('inclusive_boxes', False))
        return tuple(side - extent for side in shape[:2])
