from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from mmdet.models.roi_heads import MaskScoringRoIHead
from mmdet.models.task_modules import SamplingResult
from mmdet.models.utils import unpack_gt_instances
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi
from mmdet.utils import ConfigType, InstanceList, OptConfigType
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from ...structures.inclusive_boxes import clip_boxes, not_empty, pad_masks, to_exclusive
from ...structures.transfers import to_device, to_host
from ..layers.group_selection import chosen_of_groups, filled, join, of_class, split
from .mask_heads import CenterMaskIoUHead, SAGMaskHead
from .mask_heads.mask_head_mixins import MaskTargetMixin
from .roi_extractors import ScaleAdaptiveRoIExtractor


@MODELS.register_module()
class CenterMaskRoIHead(MaskScoringRoIHead):
    """RoI branch of CenterMask: predicts masks and their IoU for the detections of the box head.

    Source: `CenterMask <https://arxiv.org/abs/1911.06667>`_, Section 3.

    Args:
        mask_roi_extractor: Config of the RoI extractor. A :class:`ScaleAdaptiveRoIExtractor` also gets the images'
            sizes.
        mask_head: Config of the mask head.
        mask_iou_head: Config of the MaskIoU head; None: none, masks are ranked by the box scores.
        inclusive_boxes: As in :class:`CenterMask`, which sets it.
        train_cfg: ``assigner``, ``sampler``, the options of the heads, and ``roi_margin``, for objects that have a box
            alone: in training, each side of an RoI moves outward by a random share of its width or height, between
            these two (inward if negative), so that masks are also predicted outside of the boxes.
        test_cfg: Options of the mask head: ``mask_thr_binary``, a threshold of probabilities, and ``rle_masks``.
        init_cfg: Initialization config.
    """

    def __init__(
        self, mask_roi_extractor: ConfigType, mask_iou_head: OptConfigType, inclusive_boxes: bool = False, **kwargs
    ) -> None:
        if inclusive_boxes:
            mask_roi_extractor = ConfigDict(mask_roi_extractor, inclusive_boxes=True)
        # Skips the parent's, which requires a MaskIoU head.
        super(MaskScoringRoIHead, self).__init__(mask_roi_extractor=mask_roi_extractor, **kwargs)
        self.mask_iou_head: Any = None if mask_iou_head is None else MODELS.build(mask_iou_head)
        self.inclusive_boxes = inclusive_boxes

    def forward(
        self, x: tuple[Tensor, ...], results_list: InstanceList, batch_data_samples: SampleList, of_class: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Run the heads on the detections of each image in FPN features, without post-processing.

        With ``of_class``, mask logits are those of each detection's class only, which is faster.

        Returns:
            Mask logits (n, num_classes, 28, 28), or with ``of_class`` (n, 1, 28, 28), and predicted IoU
            (n, num_classes) of all detections; None for the IoU of a model without MaskIoU head. With ``of_class``,
            all but n is 1 where there are no detections.
        """
        if of_class and not any(len(results) for results in results_list):
            return x[0].new_zeros(0, 1, 1, 1), None if self.mask_iou_head is None else x[0].new_zeros(0, 1)
        img_shapes = [sample.img_shape for sample in batch_data_samples]
        rois = bbox2roi([results.bboxes for results in results_list])
        labels = torch.cat([results.labels for results in results_list])
        mask_results = self._mask_forward(x, rois, img_shapes, labels=labels if of_class else None)
        mask_iou_preds = None if self.mask_iou_head is None else self._mask_iou_forward(mask_results, labels)
        return mask_results['mask_preds'], mask_iou_preds

    def loss(self, x: tuple[Tensor, ...], results_list: InstanceList, batch_data_samples: SampleList) -> dict:
        """Compute the mask and MaskIoU losses on the detections of each image in FPN features and on ground truth.

        Returns:
            The losses of the mask head, such as ``loss_mask``, and, with a MaskIoU head, ``loss_mask_iou``.
        """
        batch_gt_instances, batch_gt_instances_ignore, batch_img_metas = unpack_gt_instances(batch_data_samples)
        sampling_results = self._sample(results_list, batch_gt_instances, batch_gt_instances_ignore)
        rois = bbox2roi([result.pos_priors for result in sampling_results])
        columns = [rois]
        for name in ('pos_gt_labels', 'pos_assigned_gt_inds'):
            columns.append(torch.cat([getattr(result, name) for result in sampling_results])[:, None].to(rois))
        together = to_device(torch.cat(columns, dim=1), x[0].device)
        rois, labels, gt_inds = together[:, :5].contiguous(), together[:, 5].long(), together[:, 6].long()
        img_shapes = [img_meta['img_shape'] for img_meta in batch_img_metas]
        mask_results = self._mask_forward(x, rois, img_shapes)
        mask_iou_preds = None if self.mask_iou_head is None else self._mask_iou_forward(mask_results, labels)

        # While an accelerator computes these, the host draws the targets, for which it has the RoIs.
        num_per_img = [len(result.pos_priors) for result in sampling_results]
        on_device = [copy(result) for result in sampling_results]
        for i, parts in enumerate(zip(*(part.split(num_per_img) for part in (rois[:, 1:], labels, gt_inds)))):
            sampling_results[i].pos_gt_labels = parts[1]
            on_device[i].pos_priors, on_device[i].pos_gt_labels, on_device[i].pos_assigned_gt_inds = parts
        targets = self.mask_head.loss_and_target(
            mask_results['mask_preds'],
            sampling_results if isinstance(self.mask_head, MaskTargetMixin) else on_device,
            batch_gt_instances,
            self.train_cfg,
        )
        if mask_iou_preds is None:
            return targets['loss_mask']
        loss_mask_iou = self.mask_iou_head.loss_and_target(
            of_class(mask_iou_preds, labels),
            of_class(mask_results['mask_preds'], labels),
            targets['mask_targets'],
            sampling_results if isinstance(self.mask_iou_head, CenterMaskIoUHead) else on_device,
            batch_gt_instances,
            self.train_cfg,
        )
        return dict(**targets['loss_mask'], **loss_mask_iou)

    def _sample(
        self, results_list: InstanceList, batch_gt_instances: InstanceList, batch_gt_instances_ignore: InstanceList
    ) -> list[SamplingResult]:
        """Choose the RoIs of a training step, on the host: on an accelerator, each image would take eight waits."""
        tensors = []
        for results, gt_instances, ignored in zip(results_list, batch_gt_instances, batch_gt_instances_ignore):
            ignored_bboxes = gt_instances.bboxes[:0] if ignored is None else ignored.bboxes
            tensors += [results.bboxes, gt_instances.bboxes, gt_instances.labels, ignored_bboxes]
        tensors = to_host(tensors)
        sampling_results = []
        for priors, bboxes, labels, ignored_bboxes in zip(*(tensors[i::4] for i in range(4))):
            # What a crop left no pixel of is neither an object nor a proposal.
            objects = not_empty(bboxes, self.inclusive_boxes).nonzero()[:, 0]
            proposals = InstanceData(priors=priors)
            gt_instances = InstanceData(bboxes=bboxes[objects], labels=labels[objects])
            assign_result = self.bbox_assigner.assign(proposals, gt_instances, InstanceData(bboxes=ignored_bboxes))
            result = self.bbox_sampler.sample(assign_result, proposals, gt_instances)
            result.pos_assigned_gt_inds = objects[result.pos_assigned_gt_inds]
            sampling_results.append(result)
        if margin := self.train_cfg.get('roi_margin'):
            for result in sampling_results:
                lengths = (result.pos_priors[:, 2:] - result.pos_priors[:, :2]).repeat(1, 2)
                outward = lengths * lengths.new_tensor([-1, -1, 1, 1])
                result.pos_priors = result.pos_priors + outward * torch.empty_like(lengths).uniform_(*margin)
        return sampling_results

    def predict(
        self, x: tuple[Tensor, ...], results_list: InstanceList, batch_data_samples: SampleList, rescale: bool = False
    ) -> InstanceList:
        """Add masks and mask scores to the detections of each image in FPN features.

        Detections are in pixels of the network's input, not clipped to the image. With ``rescale``, boxes and masks are
        returned at the original image's size.

        Returns:
            The detections whose clipped box is not empty, with ``masks`` (n, H, W), a bool tensor or, with
            ``test_cfg.rle_masks``, :class:`RLEMasks`, and, with a MaskIoU head, ``mask_scores`` (n, ).
        """
        mask_preds, mask_iou_preds = self(x, results_list, batch_data_samples, of_class=True)
        # Images that nothing resizes have no factor.
        batch_img_metas = [dict(scale_factor=(1.0, 1.0)) | sample.metainfo for sample in batch_data_samples]
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
            results_list: Detections of each image; they and ``rescale`` are as for :meth:`predict`, as is the result.
            batch_img_metas: ``img_shape``, ``ori_shape`` and ``scale_factor`` of each image.
        """
        if mask_iou_preds is not None:
            num_per_img = [len(results) for results in results_list]
            results_list = self.mask_iou_head.predict_by_feat(mask_iou_preds.split(num_per_img), results_list)
        results, image = join(results_list)
        image_sizes = filled(results.bboxes, [img_meta['img_shape'][:2] for img_meta in batch_img_metas])
        results.bboxes = clip_boxes(results.bboxes, image_sizes[image], self.inclusive_boxes)
        kept, counts = chosen_of_groups(not_empty(results.bboxes, self.inclusive_boxes), image, len(results_list))
        kept_mask_preds = list(mask_preds[kept].split(counts))
        return self.paste_masks(kept_mask_preds, split(results[kept], counts), batch_img_metas, rescale=rescale)

    def paste_masks(
        self, mask_preds: list[Tensor], results_list: InstanceList, batch_img_metas: list[dict], rescale: bool = False
    ) -> InstanceList:
        """Paste masks into the images, and turn boxes into MMDetection's if they are inclusive.

        Mask logits of each image have the shape (n, num_classes or 1, h, w); its detections are clipped to it. The rest
        is as for :meth:`predict_by_feat`.
        """
        if not self.inclusive_boxes:
            return self.mask_head.predict_by_feat(
                mask_preds, results_list, batch_img_metas, rcnn_test_cfg=self.test_cfg, rescale=rescale
            )
        final_bboxes, paste_metas = [], []
        for i, (results, img_meta) in enumerate(zip(results_list, batch_img_metas)):
            bboxes = results.bboxes
            if rescale:
                bboxes = bboxes / bboxes.new_tensor(img_meta['scale_factor']).repeat(2)
            final_bboxes.append(to_exclusive(bboxes))
            mask_preds[i], results.bboxes = pad_masks(mask_preds[i], bboxes, value=-float('inf'))
            paste_metas.append(dict(ori_shape=img_meta['ori_shape' if rescale else 'img_shape'], scale_factor=(1, 1)))
        results_list = self.mask_head.predict_by_feat(
            mask_preds, results_list, paste_metas, rcnn_test_cfg=self.test_cfg, rescale=False
        )
        for results, bboxes in zip(results_list, final_bboxes):
            results.bboxes = bboxes
        return results_list

    def _mask_forward(
        self, x: tuple[Tensor, ...], rois: Tensor, img_shapes: Sequence[tuple[int, int]], labels: Tensor | None = None
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
        return self.mask_iou_head(mask_results['mask_feats'], of_class(mask_results['mask_preds'], labels))
