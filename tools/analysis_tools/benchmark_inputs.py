"""Detections, masks and training samples that replace what random weights would find."""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benchmark_measures import boxes_in, mask_logits
from benchmark_stage_timer import StageTimer
from mmcv.transforms import Compose
from mmdet.registry import TRANSFORMS
from mmdet.structures.mask import PolygonMasks
from mmengine.config import Config
from mmengine.structures import InstanceData

from mmdet_sag.datasets.data_sources import innermost_dataset
from mmdet_sag.models.detectors import CenterMask
from mmdet_sag.models.model_config import type_name


def fix_detections(model: torch.nn.Module, count: int) -> None:
    """Let the box head's work be done, and then replace what it found, and the mask logits, noise of random weights.

    A one-stage model has no boxes from which masks would be made later: its best ``count`` count, whatever their score.
    """
    if not hasattr(model, 'roi_head'):
        for head in (getattr(model, name, None) for name in ('bbox_head', 'mask_head', 'panoptic_fusion_head')):
            if getattr(head, 'test_cfg', None) is not None:
                low = {key: 0.0 for key in ('score_thr', 'filter_thr') if key in head.test_cfg}
                head.test_cfg.update(low, max_per_img=count)
        return
    ours = isinstance(model, CenterMask)
    owner, name = (model.bbox_head, 'predict') if ours else (model.roi_head, 'predict_bbox')
    predict = getattr(owner, name)
    # CenterMask asks for boxes in pixels of the network's input, Mask R-CNN as it needs them for its masks.
    samples_at = 1

    def predict_fixed(*args, **kwargs):
        results_list = predict(*args, **kwargs)
        metas = args[samples_at]
        for i, results in enumerate(results_list):
            meta = metas[i] if isinstance(metas[i], dict) else metas[i].metainfo
            boxes = boxes_in(count, *meta['img_shape'][:2]).to(results.bboxes.device)
            results_list[i] = InstanceData(
                bboxes=boxes,
                scores=torch.linspace(0.9, 0.1, count, device=boxes.device),
                labels=torch.arange(count, device=boxes.device) % 80 % num_classes_of(model),
            )
        return results_list

    setattr(owner, name, predict_fixed)
    if model.roi_head.with_mask:
        fix_masks(model.roi_head.mask_head)


def fix_masks(head: torch.nn.Module) -> None:
    """Let the mask head's work be done, and then replace its logits: those of random weights are noise."""
    for name in ('forward', 'forward_of_class'):
        if hasattr(head, name):
            setattr(head, name, _with_blobs(getattr(head, name)))


def _with_blobs(predict: Callable) -> Callable:
    def predict_blobs(*args, **kwargs):
        logits = predict(*args, **kwargs)
        return mask_logits(len(logits), logits.shape[2:]).to(logits).expand_as(logits)

    return predict_blobs


def training_step(
    model: torch.nn.Module, image: np.ndarray, cfg: Config, args: argparse.Namespace, amp: Any, timer: StageTimer
) -> Callable[[], None]:
    sample = test_pipeline_of(cfg, args.resize)(loaded(image))
    height, width = sample['inputs'].shape[1:]
    boxes = boxes_in(10, height, width)
    polygons = [[np.array([x1, y1, x2, y1, x2, y2, x1, y2], float)] for x1, y1, x2, y2 in boxes.tolist()]
    masks = PolygonMasks(polygons, height, width)
    pipeline = innermost_dataset(cfg.train_dataloader.dataset).pipeline
    if any(type_name(step) == 'LoadAnnotations' and step.get('poly2mask', True) for step in pipeline):
        masks = masks.to_bitmap()
    sample['data_samples'].gt_instances = InstanceData(
        bboxes=boxes, labels=torch.arange(len(boxes)) % num_classes_of(model), masks=masks
    )
    sample['data_samples'].ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long), masks=masks[[]]
    )

    def run() -> None:
        with timer.stage('data'):
            batch = dict(
                inputs=[sample['inputs']] * args.batch_size,
                data_samples=[sample['data_samples'].clone() for _ in range(args.batch_size)],
            )
            batch = model.data_preprocessor(batch, True)
        with timer.stage('other'):
            with amp:
                loss, _ = model.parse_losses(model(**batch, mode='loss'))
            loss.backward()
            model.zero_grad()

    return run


def test_pipeline_of(cfg: Config, resize: bool) -> Compose:
    """The test pipeline of a config from the loaded image on."""
    pipeline = innermost_dataset(cfg.test_dataloader.dataset).pipeline
    steps = [step for step in pipeline if not type_name(step).startswith('Load')]
    return Compose([TRANSFORMS.build(step) for step in steps if resize or not type_name(step).endswith('Resize')])


def loaded(image: np.ndarray) -> dict:
    """What a pipeline has of an image after loading it."""
    shape = image.shape[:2]
    return dict(img=image, img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0), img_path='')


def num_classes_of(model: torch.nn.Module) -> int:
    owner = getattr(model, 'roi_head', model)
    heads = [getattr(owner, name, None) for name in ('mask_head', 'bbox_head')]
    return next((head.num_classes for head in heads if hasattr(head, 'num_classes')), 80)
