from collections.abc import Sequence

import torch
from mmdet.models.roi_heads import MaskScoringRoIHead
from mmdet.models.task_modules import SamplingResult
from mmdet.models.utils import empty_instances, unpack_gt_instances
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi
from mmdet.utils import InstanceList, OptConfigType
from mmengine.structures import InstanceData
from torch import Tensor

from .mask_heads.sag_mask_head import SAGMaskHead, encode_empty_masks
from .roi_extractors import ScaleAdaptiveRoIExtractor


@MODELS.register_module()
class CenterMaskRoIHead(MaskScoringRoIHead):
    """RoI branch of CenterMask: masks and their IoU for the detections of a box head, which it leaves as they are.

    Source: `CenterMask <https://arxiv.org/abs/1911.06667>`_, Section 3.

    Args:
        mask_roi_extractor: Config of the RoI extractor. A :class:`ScaleAdaptiveRoIExtractor` also gets the images'
            sizes.
        mask_head: Config of the mask head.
        mask_iou_head: Config of the MaskIoU head; None for a model without, whose masks are ranked by the box scores.
        train_cfg: ``assigner``, ``sampler``, and what the heads read.
        test_cfg: What the mask head reads (``mask_thr_binary``, a threshold of probabilities, and ``rle_masks``), and
            maybe ``inclusive_boxes`` (default False): whether the detections' boxes end at their last pixel, as in
            CenterMask's first implementation. The results end one further, as MMDetection's boxes do.
        init_cfg: Initialization config.
    """

    def __init__(self, mask_iou_head: OptConfigType, **kwargs) -> None:
        # Past the parent's, which cannot do without a MaskIoU head.
        super(MaskScoringRoIHead, self).__init__(**kwargs)
        self.mask_iou_head = None if mask_iou_head is None else MODELS.build(mask_iou_head)

    def forward(
        self,
        x: tuple[Tensor, ...],
        results_list: InstanceList,
        batch_data_samples: SampleList,
        of_class: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the heads on detections, without post-processing.

        Args:
            x: FPN features.
            results_list: Detections of each image.
            batch_data_samples: Data samples with ``img_shape``.
            of_class: Whether only the mask logits of each detection's class are wanted, which takes less time.

        Returns:
            Mask logits (n, num_classes, 28, 28), or with ``of_class`` (n, 1, 28, 28), and predicted IoU
            (n, num_classes) of all detections; None for the IoU of a model without MaskIoU head.
        """
        img_shapes = [sample.img_shape for sample in batch_data_samples]
        rois = bbox2roi([results.bboxes for results in results_list])
        labels = torch.cat([results.labels for results in results_list])
        mask_results = self._mask_forward(x, rois, img_shapes=img_shapes, labels=labels if of_class else None)
        mask_iou_preds = None if self.mask_iou_head is None else self._mask_iou_forward(mask_results, labels)
        return mask_results['mask_preds'], mask_iou_preds

    def loss(self, x: tuple[Tensor, ...], results_list: InstanceList, batch_data_samples: SampleList) -> dict:
        """Compute the mask and MaskIoU losses on detections and ground truth.

        Args:
            x: FPN features.
            results_list: Detections of each image.
            batch_data_samples: Data samples with ``gt_instances``.

        Returns:
            ``loss_mask`` and, with a MaskIoU head, ``loss_mask_iou``.
        """
        batch_gt_instances, batch_gt_instances_ignore, batch_img_metas = unpack_gt_instances(batch_data_samples)
        sampling_results = []
        for results, gt_instances, gt_instances_ignore in zip(
            results_list, batch_gt_instances, batch_gt_instances_ignore
        ):
            proposals = InstanceData(priors=results.bboxes)
            assign_result = self.bbox_assigner.assign(proposals, gt_instances, gt_instances_ignore)
            sampling_results.append(self.bbox_sampler.sample(assign_result, proposals, gt_instances))
        img_shapes = [img_meta['img_shape'] for img_meta in batch_img_metas]
        return self.mask_loss(x, sampling_results, None, batch_gt_instances, img_shapes)['loss_mask']

    def mask_loss(
        self,
        x: tuple[Tensor, ...],
        sampling_results: list[SamplingResult],
        bbox_feats: None,
        batch_gt_instances: InstanceList,
        img_shapes: Sequence[tuple[int, int]],
    ) -> dict:
        """Compute the losses of the positive RoIs.

        Args:
            x: FPN features.
            sampling_results: Sampling result of each image.
            bbox_feats: Not used, there is no RoI box head to share features with.
            batch_gt_instances: Ground truth of each image.
            img_shapes: (height, width) of each image without padding.

        Returns:
            What ``_mask_forward`` returns, and ``loss_mask``, a dict of losses.
        """
        rois = bbox2roi([result.pos_priors for result in sampling_results])
        labels = torch.cat([result.pos_gt_labels for result in sampling_results])
        mask_results = self._mask_forward(x, rois, img_shapes=img_shapes)
        targets = self.mask_head.loss_and_target(
            mask_results['mask_preds'], sampling_results, batch_gt_instances, self.train_cfg
        )
        mask_results['loss_mask'] = targets['loss_mask']
        if self.mask_iou_head is None:
            return mask_results
        mask_iou_preds = self._mask_iou_forward(mask_results, labels)
        loss_mask_iou = self.mask_iou_head.loss_and_target(
            self._of_class(mask_iou_preds, labels),
            self._of_class(mask_results['mask_preds'], labels),
            targets['mask_targets'],
            sampling_results,
            batch_gt_instances,
            self.train_cfg,
        )
        mask_results['loss_mask'] = dict(**targets['loss_mask'], **loss_mask_iou)
        return mask_results

    def predict(
        self, x: tuple[Tensor, ...], results_list: InstanceList, batch_data_samples: SampleList, rescale: bool = False
    ) -> InstanceList:
        """Add masks and mask scores to detections.

        Args:
            x: FPN features.
            results_list: Detections of each image, in pixels of the network's input, not clipped to the image.
            batch_data_samples: Data samples with ``img_shape``.
            rescale: Whether boxes and masks are returned at the original image's size.

        Returns:
            The detections whose clipped box is not empty, with ``masks`` (n, H, W), a bool tensor or, with
            ``test_cfg.rle_masks``, :class:`RLEMasks`, and, with a MaskIoU head, ``mask_scores`` (n, ).
        """
        batch_img_metas = [sample.metainfo for sample in batch_data_samples]
        if sum(len(results) for results in results_list) == 0:
            if self.mask_iou_head is not None:
                for results in results_list:
                    results.mask_scores = results.scores
            results_list = empty_instances(
                batch_img_metas,
                x[0].device,
                task_type='mask',
                instance_results=results_list,
                mask_thr_binary=self.test_cfg.mask_thr_binary,
            )
            return encode_empty_masks(results_list, self.test_cfg)
        mask_preds, mask_iou_preds = self(x, results_list, batch_data_samples, of_class=True)
        return self.predict_by_feat(mask_preds, mask_iou_preds, results_list, batch_img_metas, rescale=rescale)

    def predict_by_feat(
        self,
        mask_preds: Tensor,
        mask_iou_preds: Tensor | None,
        results_list: InstanceList,
        batch_img_metas: list[dict],
        rescale: bool = False,
    ) -> InstanceList:
        """Turn the outputs of :meth:`forward` into results.

        Boxes are clipped only here, after the RoI features were taken from the whole boxes.

        Args:
            mask_preds: Mask logits of all detections, shape (n, num_classes, h, w), or (n, 1, h, w) of their classes.
            mask_iou_preds: Predicted IoU of all detections, shape (n, num_classes), or None without MaskIoU head.
            results_list: Detections of each image.
            batch_img_metas: ``img_shape``, ``ori_shape`` and ``scale_factor`` of each image.
            rescale: Whether boxes and masks are returned at the original image's size.

        Returns:
            See :meth:`predict`.
        """
        num_per_img = [len(results) for results in results_list]
        if mask_iou_preds is not None:
            results_list = self.mask_iou_head.predict_by_feat(mask_iou_preds.split(num_per_img), results_list)
        extent = int(self.test_cfg.get('inclusive_boxes', False))
        kept_mask_preds = []
        for i, (img_meta, logits) in enumerate(zip(batch_img_metas, mask_preds.split(num_per_img))):
            bboxes = _clip_boxes(results_list[i].bboxes, [side - extent for side in img_meta['img_shape'][:2]])
            keep = (bboxes[:, 2] + extent > bboxes[:, 0]) & (bboxes[:, 3] + extent > bboxes[:, 1])
            results_list[i].bboxes = bboxes
            results_list[i] = results_list[i][keep]
            kept_mask_preds.append(logits[keep])
        results_list = self.mask_head.predict_by_feat(
            kept_mask_preds, results_list, batch_img_metas, rcnn_test_cfg=self.test_cfg, rescale=rescale
        )
        if extent:
            for results in results_list:
                results.bboxes = results.bboxes + results.bboxes.new_tensor([0, 0, 1, 1])
        return results_list

    def _mask_forward(
        self,
        x: tuple[Tensor, ...],
        rois: Tensor,
        img_shapes: Sequence[tuple[int, int]] | None = None,
        labels: Tensor | None = None,
    ) -> dict:
        scale_adaptive = isinstance(self.mask_roi_extractor, ScaleAdaptiveRoIExtractor)
        mask_feats = self.mask_roi_extractor(
            x[: self.mask_roi_extractor.num_inputs], rois, **(dict(img_shapes=img_shapes) if scale_adaptive else {})
        )
        if labels is not None and isinstance(self.mask_head, SAGMaskHead):
            mask_preds = self.mask_head.forward_of_class(mask_feats, labels)
        else:
            mask_preds = self.mask_head(mask_feats)
        return dict(mask_preds=mask_preds, mask_feats=mask_feats)

    def _mask_iou_forward(self, mask_results: dict, labels: Tensor) -> Tensor:
        return self.mask_iou_head(mask_results['mask_feats'], self._of_class(mask_results['mask_preds'], labels))

    @staticmethod
    def _of_class(preds: Tensor, labels: Tensor) -> Tensor:
        """Pick each row's entry of its class; a class-agnostic prediction has but one."""
        index = torch.arange(len(labels), device=labels.device)
        return preds[index, labels if preds.shape[1] > 1 else torch.zeros_like(labels)]


def _clip_boxes(bboxes: Tensor, img_shape: Sequence[int]) -> Tensor:
    height, width = img_shape[:2]
    return torch.minimum(bboxes.clamp(min=0), bboxes.new_tensor([width, height, width, height]))
