from abc import abstractmethod
from collections.abc import Sequence

import torch
from mmcv.ops import batched_nms
from mmdet.models.detectors import BaseDetector, SemiBaseDetector, TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample, SampleList
from mmdet.structures.bbox import bbox2roi, bbox_flip
from mmdet.utils import ConfigType, InstanceList
from mmengine.structures import InstanceData
from torch import Tensor

from ..model_config import class_of

_FLIPPED_DIMS = {'horizontal': [-1], 'vertical': [-2], 'diagonal': [-2, -1]}


class MaskTTAModel(DetTTAModel):
    """Base of test-time augmentation with masks, which MMDetection's leaves out.

    The boxes of all views are merged by NMS; each view then predicts the masks of the merged boxes, and these are
    averaged over the views, as probabilities.

    Args:
        tta_cfg: ``nms``, the config of the NMS, and ``max_per_img``, the number of detections to keep.
        **kwargs: As in ``BaseTTAModel``: the detector, ``module``.
    """

    @property
    def detector(self) -> BaseDetector:
        """The detector: ``module``, or what a semi-supervised model predicts with."""
        module = self.module
        if isinstance(module, SemiBaseDetector):
            return getattr(module, module.semi_test_cfg.get('predict_on', 'teacher'))
        return module

    @torch.no_grad()
    def test_step(self, data: dict) -> SampleList:
        """Predict on augmented images, lists over views of lists over images, as the detector does with ``rescale``."""
        views = self._predict_views(data)
        return self.detector.add_pred_to_datasample(views[0][1], self._merge_instances(views))

    def _predict_views(self, data: dict) -> list[tuple]:
        """FPN features, data samples and detections of each view."""
        views = []
        for inputs, data_samples in zip(data['inputs'], data['data_samples']):
            batch = self.module.data_preprocessor(dict(inputs=inputs, data_samples=data_samples), False)
            feats = self.detector.extract_feat(batch['inputs'])
            views.append((feats, batch['data_samples'], self.predict_boxes(feats, batch['data_samples'])))
        return views

    def _merge_instances(self, views: list[tuple]) -> InstanceList:
        """Instances of each image, in the original image's frame."""
        num_imgs = len(views[0][1])
        merged = [
            self._merge_boxes([(samples[i], results[i]) for _, samples, results in views]) for i in range(num_imgs)
        ]
        batch_img_metas = [
            dict(ori_shape=sample.ori_shape, img_shape=sample.ori_shape, scale_factor=(1.0, 1.0))
            for sample in views[0][1]
        ]
        mask_probs, *others = zip(*(self._predict_upright(feats, samples, merged) for feats, samples, _ in views))
        return self.predict_by_feat(
            (sum(mask_probs) / len(views)).logit(),
            *(sum(outputs) / len(views) for outputs in others),
            results_list=merged,
            batch_img_metas=batch_img_metas,
        )

    @abstractmethod
    def predict_boxes(self, feats: tuple[Tensor, ...], batch_data_samples: SampleList) -> InstanceList:
        """Detect boxes in one view, of each image, in pixels of the network's input."""

    @abstractmethod
    def predict_masks(
        self, feats: tuple[Tensor, ...], results_list: InstanceList, batch_data_samples: SampleList
    ) -> tuple[Tensor, ...]:
        """Predict the masks of given boxes and labels, in pixels of the network's input, in one view.

        Returns:
            Mask probabilities of all boxes, shape (n, num_classes, h, w), and whatever else is to be averaged.
        """

    @abstractmethod
    def predict_by_feat(
        self, mask_preds: Tensor, *others: Tensor, results_list: InstanceList, batch_img_metas: list[dict]
    ) -> InstanceList:
        """Turn averaged outputs, mask logits (n, num_classes, h, w) and the rest, into ``masks`` (n, H, W).

        ``results_list`` are the merged detections of each image, in pixels of the original image, and
        ``batch_img_metas`` its ``img_shape``, ``ori_shape`` and ``scale_factor``.
        """

    def _merge_boxes(self, views: list[tuple]) -> InstanceData:
        """Merge the detections of one image's views, in the original image's frame."""
        bboxes, scores = self.merge_aug_bboxes(
            [results.bboxes / results.bboxes.new_tensor(_factors(sample)) for sample, results in views],
            [results.scores for _, results in views],
            [dict(sample.metainfo, ori_shape=self._mirror(sample.ori_shape)) for sample, _ in views],
        )
        labels = torch.cat([results.labels for _, results in views])
        if len(bboxes) == 0:
            return InstanceData(bboxes=bboxes, scores=scores, labels=labels)
        dets, keep = batched_nms(bboxes, scores, labels, self.tta_cfg.nms)
        keep = keep[: self.tta_cfg.max_per_img]
        return InstanceData(bboxes=bboxes[keep], scores=dets[: len(keep), -1], labels=labels[keep])

    def _predict_upright(
        self, feats: tuple[Tensor, ...], data_samples: SampleList, merged: list[InstanceData]
    ) -> tuple[Tensor, ...]:
        """What one view predicts for the merged boxes, masks flipped back."""
        view_results = []
        for sample, results in zip(data_samples, merged):
            bboxes = results.bboxes * results.bboxes.new_tensor(_factors(sample))
            if sample.flip:
                bboxes = bbox_flip(bboxes, self._mirror(sample.img_shape), sample.flip_direction)
            view_results.append(InstanceData(bboxes=bboxes, labels=results.labels))
        mask_probs, *others = self.predict_masks(feats, view_results, data_samples)
        per_img = mask_probs.split([len(results) for results in merged])
        return torch.cat(list(map(_upright, per_img, data_samples))), *others

    def _mirror(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Height and width that flip the boxes of an image of this shape: inclusive boxes end at side - 1."""
        inclusive = getattr(self.detector, 'inclusive_boxes', False)
        return tuple(side - int(inclusive) for side in shape[:2])


@MODELS.register_module()
class TwoStageMaskTTAModel(MaskTTAModel):
    """Test-time augmentation of Mask R-CNN and Cascade Mask R-CNN, with any FCN mask head.

    A cascade's masks are averaged over its stages too, as in its plain ``predict``.
    """

    @staticmethod
    def supports(model: ConfigType) -> bool:
        """Whether the masks of a config's detector come from nothing but features, boxes and the mask head."""
        detector, roi_head = (class_of(cfg) for cfg in (model, model.get('roi_head') or {}))
        methods = ('predict', 'predict_bbox', 'predict_mask')
        return issubclass(detector, TwoStageDetector) and any(
            issubclass(roi_head, base) and all(getattr(roi_head, name) is getattr(base, name) for name in methods)
            for base in (StandardRoIHead, CascadeRoIHead)
        )

    def predict_boxes(self, feats: tuple[Tensor, ...], batch_data_samples: SampleList) -> InstanceList:
        roi_head = self.detector.roi_head
        rpn_results_list = self.detector.rpn_head.predict(feats, batch_data_samples, rescale=False)
        batch_img_metas = [sample.metainfo for sample in batch_data_samples]
        return roi_head.predict_bbox(feats, batch_img_metas, rpn_results_list, roi_head.test_cfg, rescale=False)

    def predict_masks(
        self, feats: tuple[Tensor, ...], results_list: InstanceList, batch_data_samples: SampleList
    ) -> tuple[Tensor]:
        roi_head = self.detector.roi_head
        rois = bbox2roi([results.bboxes for results in results_list])
        stages = [(stage,) for stage in range(roi_head.num_stages)] if isinstance(roi_head, CascadeRoIHead) else [()]
        probs = [roi_head._mask_forward(*stage, feats, rois)['mask_preds'].sigmoid() for stage in stages]
        return (torch.stack(probs).mean(dim=0),)

    def predict_by_feat(
        self, mask_preds: Tensor, *others: Tensor, results_list: InstanceList, batch_img_metas: list[dict]
    ) -> InstanceList:
        roi_head = self.detector.roi_head
        mask_head = roi_head.mask_head[-1] if isinstance(roi_head, CascadeRoIHead) else roi_head.mask_head
        return mask_head.predict_by_feat(
            mask_preds.split([len(results) for results in results_list]),
            results_list,
            batch_img_metas,
            rcnn_test_cfg=roi_head.test_cfg,
            rescale=True,
        )


@MODELS.register_module()
class CenterMaskTTAModel(MaskTTAModel):
    """Test-time augmentation of CenterMask: :class:`MaskTTAModel` that averages the predicted mask IoUs too."""

    def predict_boxes(self, feats: tuple[Tensor, ...], batch_data_samples: SampleList) -> InstanceList:
        return self.detector.predict_boxes(self.detector.instance_feats(feats), batch_data_samples)

    def predict_masks(
        self, feats: tuple[Tensor, ...], results_list: InstanceList, batch_data_samples: SampleList
    ) -> tuple[Tensor, ...]:
        """With a MaskIoU head, the predicted IoUs, shape (n, num_classes), follow the mask probabilities."""
        mask_preds, mask_iou_preds = self.detector.roi_head(
            self.detector.instance_feats(feats), results_list, batch_data_samples
        )
        probs = mask_preds.sigmoid()
        return (probs,) if mask_iou_preds is None else (probs, mask_iou_preds)

    def predict_by_feat(
        self, mask_preds: Tensor, *mask_iou_preds: Tensor, results_list: InstanceList, batch_img_metas: list[dict]
    ) -> InstanceList:
        return self.detector.roi_head.predict_by_feat(
            mask_preds, *(mask_iou_preds or (None,)), results_list, batch_img_metas, rescale=True
        )


@MODELS.register_module()
class PanopticCenterMaskTTAModel(CenterMaskTTAModel):
    """Test-time augmentation of Panoptic-CenterMask.

    Instances are merged as by :class:`CenterMaskTTAModel`; the semantic probabilities are averaged over the views, and
    both are then merged as without augmentation.
    """

    @torch.no_grad()
    def test_step(self, data: dict) -> SampleList:
        """Predict on augmented images as :meth:`PanopticCenterMask.predict` does with ``rescale=True``."""
        views = self._predict_views(data)
        results_list = self._merge_instances(views)
        seg_probs = [sum(probs) / len(views) for probs in zip(*(self._predict_semantic(*view) for view in views))]
        return self.detector.add_results(views[0][1], results_list, seg_probs)

    def _predict_semantic(self, feats: tuple[Tensor, ...], data_samples: SampleList, _: list) -> list[Tensor]:
        """Class probabilities (num_classes, H, W) that one view predicts, upright, at the original images' size."""
        metas = [sample.metainfo for sample in data_samples]
        seg_preds = self.detector.semantic_head.predict(feats, metas, rescale=True)
        return [_upright(logits.softmax(dim=0), sample) for logits, sample in zip(seg_preds, data_samples)]


def _factors(data_sample: DetDataSample) -> tuple[float, ...]:
    """Factors of the sides of a view's boxes, which there are none of if nothing has resized it."""
    return tuple(data_sample.get('scale_factor', (1.0, 1.0))) * 2


def _upright(maps: Tensor, data_sample: DetDataSample) -> Tensor:
    """Flip maps (..., H, W) of a view back."""
    return maps.flip(_FLIPPED_DIMS[data_sample.flip_direction]) if data_sample.flip else maps
