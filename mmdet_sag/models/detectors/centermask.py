import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from mmdet.models.dense_heads import RepPointsHead
from mmdet.models.detectors import SingleStageDetector
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample, SampleList
from mmdet.utils import ConfigType, InstanceList, OptConfigType, OptMultiConfig
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from torch import Tensor, nn

from ...errors import InputError
from ...fileio import is_remote
from ...structures.inclusive_boxes import not_empty, to_inclusive
from ..dense_heads import CenterMaskFCOSHead
from ..model_config import random_weights_remedy


@MODELS.register_module()
class CenterMask(SingleStageDetector):
    """CenterMask: a one-stage detector whose detections get masks from a RoI branch.

    The published models have a :class:`CenterMaskFCOSHead`. Other dense heads of MMDetection take its place; they get
    no masks, and the proposals of a training step are what they detect in evaluation mode, without gradient.

    Source: `CenterMask: Real-Time Anchor-Free Instance Segmentation <https://arxiv.org/abs/1911.06667>`_.

    A checkpoint with another number of classes can be loaded non-strictly: the ``class_layers``, which have one output
    per class, keep their initial weights, with a warning.

    Further arguments are those of ``SingleStageDetector``.

    Args:
        roi_head: Config of the RoI branch.
        train_cfg: ``proposal``, how the box head's detections are chosen as RoIs of a training step, ``rcnn``, the
            training config of the RoI branch, and ``bbox_head``, that of a box head with an assigner.
        test_cfg: ``bbox_head`` and ``rcnn``, the test configs of the box head and of the RoI branch.
        inclusive_boxes: Whether boxes end at their last pixel throughout the model, as in CenterMask's first
            implementation. Ground truth and results are MMDetection's boxes nevertheless.

    Raises:
        InputError: ``inclusive_boxes`` is set in ``train_cfg`` or ``test_cfg``, where older configs have it.
    """

    class_layers: tuple[str, ...] = (
        'bbox_head.conv_cls',
        'roi_head.mask_head.conv_logits',
        'roi_head.mask_iou_head.fc_mask_iou',
    )

    def __init__(
        self,
        backbone: ConfigType,
        neck: ConfigType,
        bbox_head: ConfigType,
        roi_head: ConfigType,
        train_cfg: OptConfigType = None,
        test_cfg: OptConfigType = None,
        data_preprocessor: OptConfigType = None,
        init_cfg: OptMultiConfig = None,
        inclusive_boxes: bool = False,
    ) -> None:
        if inclusive_boxes:
            bbox_head, roi_head = (ConfigDict(head, inclusive_boxes=True) for head in (bbox_head, roi_head))
        else:
            _check_no_old_option(train_cfg, test_cfg)
        super().__init__(
            backbone=backbone,
            neck=neck,
            bbox_head=bbox_head,
            train_cfg=train_cfg.get('bbox_head') if train_cfg else None,
            test_cfg=test_cfg.bbox_head if test_cfg else None,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        roi_head.update(train_cfg=train_cfg.rcnn if train_cfg else None, test_cfg=test_cfg.rcnn if test_cfg else None)
        self.roi_head = MODELS.build(roi_head)
        self.inclusive_boxes = inclusive_boxes
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        self.backbone_cfg = backbone

    def init_weights(self) -> None:
        """Initialize the weights.

        Raises:
            InputError: If the file of the backbone's pretrained weights is missing.
        """
        init_cfgs = self.backbone.init_cfg or []
        for init_cfg in [init_cfgs] if isinstance(init_cfgs, dict) else init_cfgs:
            path = init_cfg.get('checkpoint')
            if path and not is_remote(path) and not Path(path).expanduser().is_file():
                raise InputError(
                    f"pretrained weights '{path}' of the backbone do not exist: make them as docs/checkpoints.md says, "
                    f'or {random_weights_remedy(self.backbone_cfg, "model.backbone", "backbone")}'
                )
        super().init_weights()

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict:
        """Compute the losses of the box head and of the RoI branch.

        Images have the shape (N, 3, H, W), data samples have ``gt_instances``.

        Returns:
            The losses of the box head, such as ``loss_cls``, ``loss_bbox`` and ``loss_centerness``, those of the mask
            head, such as ``loss_mask``, and, with a MaskIoU head, ``loss_mask_iou``.
        """
        return self.loss_by_feat(self.extract_feat(batch_inputs), batch_data_samples)

    def instance_feats(self, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The FPN levels of the box head and the RoI branch: here all."""
        return x

    def loss_by_feat(self, x: tuple[Tensor, ...], batch_data_samples: SampleList) -> dict:
        """Compute the losses of :meth:`loss` from FPN features."""
        if self.inclusive_boxes:
            batch_data_samples = [_copy(data_sample) for data_sample in batch_data_samples]
            for data_sample in batch_data_samples:
                scale_factor = data_sample.get('scale_factor', (1.0, 1.0))
                data_sample.gt_instances.bboxes = to_inclusive(data_sample.gt_instances.bboxes, scale_factor)
        box_samples = [_copy(data_sample) for data_sample in batch_data_samples]
        for data_sample in box_samples:
            # RTMDet's assigner would take masks for tensors, and centre objects on them.
            data_sample.gt_instances.pop('masks', None)
        proposal_cfg = self.train_cfg.proposal
        if isinstance(self.bbox_head, CenterMaskFCOSHead):
            losses, results_list = self.bbox_head.loss_and_predict(x, box_samples, proposal_cfg=proposal_cfg)
        else:
            # Crops leave boxes without area, to which MMDetection's assigners give locations: some losses are infinite.
            for data_sample in box_samples:
                gt_instances = data_sample.gt_instances
                data_sample.gt_instances = gt_instances[not_empty(gt_instances.bboxes, self.inclusive_boxes)]
            # In training, some heads return something else than boxes in pixels: FCOS strides, VFNet two regressions,
            # RepPoints points.
            # MMDetection's assigner of RepPoints looks up a GPU's indices in a tensor that it makes on the CPU.
            with x[0].device if isinstance(self.bbox_head, RepPointsHead) else nullcontext():
                losses = self.bbox_head.loss(x, box_samples)
            img_metas = [data_sample.metainfo for data_sample in batch_data_samples]
            with torch.no_grad(), _evaluating(self.bbox_head):
                results_list = self.bbox_head.predict_by_feat(
                    *self.bbox_head(x), batch_img_metas=img_metas, cfg=proposal_cfg
                )
        losses.update(self.roi_head.loss(x, results_list, batch_data_samples))
        return losses

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True) -> SampleList:
        """Detect objects and their masks in images (N, 3, H, W); with ``rescale``, at the original images' size.

        Returns:
            The data samples with ``pred_instances``: ``bboxes`` (n, 4), ``scores`` (n, ), ``labels`` (n, ),
            ``masks`` (n, H, W), bitmaps or :class:`RLEMasks`, and, with a MaskIoU head, ``mask_scores`` (n, ), by which
            masks are to be ranked.
        """
        results_list = self.predict_by_feat(self.extract_feat(batch_inputs), batch_data_samples, rescale=rescale)
        return self.add_pred_to_datasample(batch_data_samples, results_list)

    def predict_by_feat(
        self, x: tuple[Tensor, ...], batch_data_samples: SampleList, rescale: bool = True
    ) -> InstanceList:
        """Detect objects and their masks in FPN features; see :meth:`predict`."""
        results_list = self.predict_boxes(x, batch_data_samples)
        return self.roi_head.predict(x, results_list, batch_data_samples, rescale=rescale)

    def predict_boxes(self, x: tuple[Tensor, ...], batch_data_samples: SampleList) -> InstanceList:
        """Detect boxes in FPN features, in pixels of the network's input.

        ``test_cfg.bbox_head.max_per_img`` holds for every box head, also for YOLOX's, which keeps all detections; those
        that tie with the last one are kept.
        """
        limit = self.test_cfg.bbox_head.get('max_per_img', -1)
        results_list = self.bbox_head.predict(x, batch_data_samples, rescale=False)
        return [
            results[results.scores >= results.scores[limit - 1]] if 0 < limit < len(results) else results
            for results in results_list
        ]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        # Fine-tuning on other classes: what is left out counts as missing, so that strict loading still fails.
        counts = set()
        for name, parameter in self.named_parameters():
            loaded = state_dict.get(prefix + name)
            if name.rpartition('.')[0] not in self.class_layers or loaded is None or loaded.ndim != parameter.ndim:
                continue
            if len(loaded) != len(parameter) and loaded.shape[1:] == parameter.shape[1:]:
                counts.add((len(loaded), len(parameter)))
                del state_dict[prefix + name]
        for count, own_count in counts:
            print_log(
                f'The checkpoint has {count} classes, the model {own_count}: {", ".join(self.class_layers)} keep their '
                'initial weights and have to be trained; everything else is loaded.',
                logger='current',
                level=logging.WARNING,
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> tuple:
        return self.forward_by_feat(self.extract_feat(batch_inputs), batch_data_samples)

    def forward_by_feat(self, x: tuple[Tensor, ...], batch_data_samples: SampleList) -> tuple:
        """Run the heads on FPN features, without post-processing."""
        outs = self.bbox_head(x)
        batch_img_metas = [sample.metainfo for sample in batch_data_samples]
        results_list = self.bbox_head.predict_by_feat(*outs, batch_img_metas=batch_img_metas, rescale=False)
        return (*outs, *self.roi_head(x, results_list, batch_data_samples))


def _copy(data_sample: DetDataSample) -> DetDataSample:
    """A copy whose ``gt_instances`` can be changed without changing those of the other."""
    data_sample = data_sample.clone()
    data_sample.gt_instances = data_sample.gt_instances.clone()
    return data_sample


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    yield
    for part in training:
        part.training = True


def _check_no_old_option(train_cfg: OptConfigType, test_cfg: OptConfigType) -> None:
    for name, cfg in (('train_cfg', train_cfg or {}), ('test_cfg', test_cfg or {})):
        for place in (cfg, *(part for part in cfg.values() if isinstance(part, dict))):
            if place.get('inclusive_boxes', False):
                raise InputError(
                    f'model.{name} has inclusive_boxes, which is now an option of the detector: set '
                    'model.inclusive_boxes=True, and remove it from model.train_cfg and model.test_cfg'
                )
