import copy

import torch
from mmdet.models.detectors import SemiBaseDetector
from mmdet.models.utils import rename_loss_dict, reweight_loss_dict
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample, SampleList
from mmdet.utils import ConfigType, OptConfigType
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import InputError
from ...structures.mask import RLEMasks, TensorMasks
from ..layers.group_selection import of_class
from .centermask import CenterMask
from .panoptic_centermask import PanopticCenterMask

_UNSUP_WEIGHTS = dict(loss_cls=2.0, loss_bbox=0.0, loss_centerness=0.0, loss_mask=2.0, loss_mask_iou=2.0)
_SEMI_TRAIN_CFG = dict(
    freeze_teacher=True,
    sup_branches=('sup_weak', 'sup_strong'),
    sup_weight=1.0,
    cls_pseudo_thr=0.6,
    mask_pseudo_thr=0.9,
    mask_thr_binary=0.5,
    min_pseudo_bbox_wh=(1e-2, 1e-2),
    keep_images_without_pseudo_labels=True,
    norm_eval=False,
    unsup_weights=_UNSUP_WEIGHTS,
)


@MODELS.register_module()
class PoliteTeacher(SemiBaseDetector):
    """Polite Teacher: a CenterMask that learns from few labelled and many unlabelled images.

    A teacher, the moving average of the student (``MeanTeacherHook``), labels the weak views of the unlabelled images;
    the student learns these pseudo-labels on their strong views. Both views share their geometry: resize and flip
    come before ``MultiBranch``. Labelled images pass through the student once, weak and strong views in one batch.

    ``semi_train_cfg`` may hold, with the published values as defaults:

    =====================================  ===========================================================================
    key                                    meaning
    =====================================  ===========================================================================
    ``cls_pseudo_thr``                     0.6: a detection is a pseudo-label if its score is above
    ``mask_pseudo_thr``                    0.9: its mask is learnt if its predicted IoU, which is not multiplied by the
                                           score, is above; else its box and class alone, and the mask's IoU. None:
                                           every mask is learnt
    ``mask_thr_binary``                    0.5: a pseudo-mask is where the probability is at least this
    ``min_pseudo_bbox_wh``                 (0.01, 0.01): pseudo-boxes that are not larger, in pixels, are left out
    ``keep_images_without_pseudo_labels``  True: such images are background; False: they are left out
    ``norm_eval``                          False; True: the student's batch norms keep the statistics of the burn-in.
                                           Those of strong views are not those of the images that the teacher labels.
                                           The published models have no batch norm that learns statistics
    ``unsup_weights``                      weight of each loss of the unlabelled images: 2 for ``loss_cls``,
                                           ``loss_mask``, ``loss_mask_iou``, 0 for ``loss_bbox``, ``loss_centerness``
    ``sup_weight``                         1: weight of the losses of the labelled images
    ``sup_branches``                       ('sup_weak', 'sup_strong'): branches of the labelled images
    ``freeze_teacher``                     True: the teacher has no gradient
    =====================================  ===========================================================================

    A batch without the branches ``unsup_teacher`` and ``unsup_student`` is one of supervised training.

    Source: `Polite Teacher <https://arxiv.org/abs/2211.03850>`_.

    Args:
        detector: Config of the :class:`CenterMask` that student and teacher are.
        semi_train_cfg: The options above.
        semi_test_cfg: ``predict_on``, ``forward_on`` and ``extract_feat_on``: ``'teacher'``, the default, or
            ``'student'``.
        data_preprocessor: Config of a ``MultiBranchDataPreprocessor``.
        init_cfg: Initialization config.

    Raises:
        InputError: The detector is no CenterMask, or an option is unknown or does not fit the detector.
    """

    def __init__(
        self,
        detector: ConfigType,
        semi_train_cfg: OptConfigType = None,
        semi_test_cfg: OptConfigType = None,
        data_preprocessor: OptConfigType = None,
        init_cfg: OptConfigType = None,
    ) -> None:
        options = _with_defaults(semi_train_cfg or {})
        super().__init__(detector, options, ConfigDict(semi_test_cfg or {}), data_preprocessor, init_cfg)
        if not isinstance(self.student, CenterMask) or isinstance(self.student, PanopticCenterMask):
            raise InputError(
                f'model.detector: PoliteTeacher trains a CenterMask, not a {type(self.student).__name__}: inherit the '
                'detector from configs/_base_/models'
            )
        if self.student.roi_head.mask_iou_head is None and options.mask_pseudo_thr is not None:
            raise InputError(
                'model.detector has no mask_iou_head, whose IoU chooses the pseudo-masks: give it one, or set '
                'model.semi_train_cfg.mask_pseudo_thr=None to learn all of them'
            )
        if self.student.inclusive_boxes:
            raise InputError(
                "model.detector: PoliteTeacher does not train CenterMask's first implementation (inclusive_boxes=True):"
                ' choose a detector of configs/centermask or configs/centermask_lite'
            )

    def train(self, mode: bool = True) -> 'PoliteTeacher':
        """Switch the mode; with ``norm_eval``, the student's norm layers with statistics stay in evaluation mode."""
        super().train(mode)
        if self.semi_train_cfg.norm_eval:
            for module in self.student.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def loss(self, multi_batch_inputs: dict[str, Tensor], multi_batch_data_samples: dict[str, SampleList]) -> dict:
        """Compute the losses of labelled and unlabelled images: each branch has images (N, 3, H, W) and data samples.

        Returns:
            The student's losses on the labelled images, named ``sup_...``, and on the unlabelled ones, ``unsup_...``;
            also ``unsup_num_boxes`` and ``unsup_num_masks``, the pseudo-boxes and learnt pseudo-masks per image.
        """
        branches = [name for name in self.semi_train_cfg.sup_branches if name in multi_batch_inputs]
        if not branches:
            raise InputError(
                f'the batch has the branches {sorted(multi_batch_inputs)}, none of model.semi_train_cfg.sup_branches '
                f'{tuple(self.semi_train_cfg.sup_branches)}: name the branches of MultiBranch alike'
            )
        losses = self.loss_by_gt_instances(
            torch.cat([multi_batch_inputs[name] for name in branches]),
            [sample for name in branches for sample in multi_batch_data_samples[name]],
        )
        if 'unsup_teacher' in multi_batch_inputs:
            pseudo_samples, batch_info = self.get_pseudo_instances(
                multi_batch_inputs['unsup_teacher'], multi_batch_data_samples['unsup_teacher']
            )
            student_samples = self.project_pseudo_instances(pseudo_samples, multi_batch_data_samples['unsup_student'])
            losses.update(
                self.loss_by_pseudo_instances(multi_batch_inputs['unsup_student'], student_samples, batch_info)
            )
        return losses

    @torch.no_grad()
    def get_pseudo_instances(
        self, batch_inputs: Tensor, batch_data_samples: SampleList
    ) -> tuple[SampleList, dict | None]:
        """Label weak views (N, 3, H, W) by the teacher.

        Returns:
            The data samples with ``gt_instances`` in pixels of the network's input: ``bboxes``, not clipped to the
            image, ``labels``, ``scores``, ``masks``, bitmaps of the image without padding, and ``mask_weights``, 1
            where the mask is to be learnt and else 0; and ``num_boxes`` and ``num_masks`` per image.
        """
        teacher = self.teacher
        teacher.eval()
        feats = teacher.extract_feat(batch_inputs)
        img_metas = [sample.metainfo for sample in batch_data_samples]
        results_list = teacher.bbox_head.predict_by_feat(
            *teacher.bbox_head(feats), batch_img_metas=img_metas, cfg=teacher.train_cfg.proposal, rescale=False
        )
        min_width, min_height = self.semi_train_cfg.min_pseudo_bbox_wh
        for i, results in enumerate(results_list):
            width, height = (results.bboxes[:, 2:] - results.bboxes[:, :2]).unbind(1)
            keep = (results.scores > self.semi_train_cfg.cls_pseudo_thr) & (width > min_width) & (height > min_height)
            results_list[i] = results[keep]
        self._add_masks(feats, results_list, batch_data_samples)
        for sample, results in zip(batch_data_samples, results_list):
            sample.gt_instances = results
        device = batch_inputs.device
        num_images = len(batch_data_samples)
        num_boxes = sum(len(results) for results in results_list)
        num_masks = sum(results.mask_weights.sum() for results in results_list)
        batch_info = dict(
            num_boxes=torch.tensor(num_boxes / num_images, device=device),
            num_masks=torch.as_tensor(num_masks / num_images, device=device),
        )
        return batch_data_samples, batch_info

    def project_pseudo_instances(
        self, batch_pseudo_instances: SampleList, batch_data_samples: SampleList
    ) -> SampleList:
        """Hand the ``gt_instances`` of the weak views over to the strong views, which have the same geometry.

        Returns:
            The data samples of the strong views.

        Raises:
            InputError: The views have not the same geometry.
        """
        for weak, strong in zip(batch_pseudo_instances, batch_data_samples):
            if _geometry(weak) != _geometry(strong):
                raise InputError(
                    f"the weak and the strong view of '{weak.get('img_path')}' differ in size or flip: put Resize and "
                    'RandomFlip before MultiBranch, and only colours and erasing into its branch unsup_student'
                )
            strong.gt_instances = copy.copy(weak.gt_instances)
        return batch_data_samples

    def loss_by_pseudo_instances(
        self, batch_inputs: Tensor, batch_data_samples: SampleList, batch_info: dict | None = None
    ) -> dict:
        """Compute the student's losses on strong views (N, 3, H, W) with pseudo-labels as ``gt_instances``.

        Returns:
            The weighted losses and the numbers of ``batch_info``, which are logged, named ``unsup_...``.
        """
        weights = dict(self.semi_train_cfg.unsup_weights)
        if not self.semi_train_cfg.keep_images_without_pseudo_labels:
            kept = [i for i, sample in enumerate(batch_data_samples) if len(sample.gt_instances)]
            if not kept:
                # All processes have to take part in the step.
                kept = [0]
                weights = dict.fromkeys(weights, 0.0)
            batch_inputs, batch_data_samples = batch_inputs[kept], [batch_data_samples[i] for i in kept]
        losses = self.student.loss(batch_inputs, batch_data_samples)
        for name in (losses.keys() ^ weights.keys()) - _UNSUP_WEIGHTS.keys():
            if 'loss' in name:
                raise InputError(
                    f'model.semi_train_cfg.unsup_weights: {type(self.student.bbox_head).__name__} has the losses '
                    f"{', '.join(losses)}, and there are weights of {', '.join(weights)}: set one for '{name}' (0 for "
                    'a loss of boxes, since pseudo-boxes are not exact)'
                    if name in losses
                    else f"model.semi_train_cfg.unsup_weights.{name}: the detector's losses are {', '.join(losses)}"
                )
        for name, weight in weights.items():
            if name in losses:
                losses.update(reweight_loss_dict({name: losses[name]}, weight))
        return rename_loss_dict('unsup_', {**losses, **(batch_info or {})})

    def _add_masks(self, feats: tuple[Tensor, ...], results_list: list, batch_data_samples: SampleList) -> None:
        """Add ``masks`` and ``mask_weights`` to detections, whose boxes stay as they are."""
        roi_head = self.teacher.roi_head
        num_per_img = [len(results) for results in results_list]
        logits, ious = roi_head(feats, results_list, batch_data_samples, of_class=True)
        labels = torch.cat([results.labels for results in results_list])
        threshold = self.semi_train_cfg.mask_pseudo_thr
        if threshold is None:
            weights = torch.ones_like(labels, dtype=torch.float32)
        else:
            weights = (of_class(ious, labels) > threshold).float()
        # Run lengths, which are faster on a CPU, would take the masks off a GPU.
        rle_masks = roi_head.test_cfg.get('rle_masks', False) and logits.device.type == 'cpu'
        threshold = self.semi_train_cfg.mask_thr_binary
        test_cfg = ConfigDict(roi_head.test_cfg, mask_thr_binary=threshold, rle_masks=rle_masks)
        # Copies: pasting scales boxes in place. The image of the pseudo-labels is the network's input.
        drawn = roi_head.mask_head.predict_by_feat(
            logits.split(num_per_img),
            [InstanceData(bboxes=results.bboxes.clone(), labels=results.labels) for results in results_list],
            [dict(ori_shape=sample.img_shape, scale_factor=(1.0, 1.0)) for sample in batch_data_samples],
            rcnn_test_cfg=test_cfg,
            rescale=False,
        )
        for results, pasted, weight in zip(results_list, drawn, weights.split(num_per_img)):
            masks = pasted.masks
            results.masks = TensorMasks(masks.to_tensor() if isinstance(masks, RLEMasks) else masks.bool())
            results.mask_weights = weight


def _with_defaults(semi_train_cfg: dict) -> ConfigDict:
    options = ConfigDict(_SEMI_TRAIN_CFG)
    for key, value in semi_train_cfg.items():
        if key not in options:
            raise InputError(f"model.semi_train_cfg has no option '{key}': it has {', '.join(options)}")
        # Other box heads have other losses, so their weights may be new.
        options[key] = {**options[key], **value} if isinstance(options[key], dict) else value
    return options


def _geometry(sample: DetDataSample) -> tuple:
    return (
        sample.get('img_path'),
        tuple(sample.img_shape),
        bool(sample.get('flip')),
        sample.get('flip_direction') if sample.get('flip') else None,
    )
