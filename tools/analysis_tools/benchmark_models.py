"""Models to measure, stage by stage."""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import mmcv
import numpy as np
import torch
from benchmark_inputs import fix_detections, loaded, test_pipeline_of, training_step
from benchmark_measures import extra_memory, spread
from benchmark_stage_timer import StageTimer
from mmdet.models.dense_heads import base_dense_head, rpn_head, rtmdet_ins_head
from mmdet.models.layers import bbox_nms
from mmdet.registry import MODELS
from mmdet.structures.mask import encode_mask_results
from mmengine.hub import get_config
from mmengine.runner import load_checkpoint
from torch.utils.flop_counter import FlopCounterMode

from mmdet_sag.cpu import prepare_for_inference, prepare_for_training
from mmdet_sag.engine.launch import read_config
from mmdet_sag.errors import InputError
from mmdet_sag.models.dense_heads import centermask_fcos_head
from mmdet_sag.models.detectors import CenterMask
from mmdet_sag.models.roi_heads.mask_heads.sag_mask_head import SAGMaskHead
from mmdet_sag.structures.mask import RLEMasks

STAGES = (
    'data',
    'backbone',
    'neck',
    'box head',
    'NMS',
    'RoIAlign',
    'mask head',
    'MaskIoU',
    'post-processing',
    'encoding',
    'other',
)
OPTIONS = ('plain', 'direct', 'compile', 'amp', 'bf16')


class Candidate(NamedTuple):
    """A model to measure.

    Attributes:
        name: What the results call it.
        run: Runs one image, or one training step.
        timer: Has the stages of the last run.
        num_images: Images of one run.
        facts: ``parameters`` and ``batch_size``, and for inference the input's size, ``gflops``, and ``found``, the
            number of masks of the last image.
    """

    name: str
    run: Callable[[], Any]
    timer: StageTimer
    num_images: int
    facts: dict


def make_candidate(spec: str, checkpoint: str | None, args: argparse.Namespace) -> Candidate:
    """Build a model and what runs it."""
    path, *options = spec.split('+')
    if unknown := set(options) - set(OPTIONS):
        raise InputError(f'{spec}: unknown option {sorted(unknown)[0]}, choose from {", ".join(OPTIONS)}')
    cfg = get_config(path) if path.startswith('mmdet::') else read_config(path)
    device = torch.device(args.device)
    if 'backbone' in cfg.model:
        cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    if checkpoint and checkpoint != 'none':
        load_checkpoint(model, checkpoint, map_location='cpu')
    model.to(device)
    facts = dict(parameters=sum(p.numel() for p in model.parameters()), batch_size=args.batch_size)
    timer = StageTimer(device)
    dtype = torch.bfloat16 if 'bf16' in options else None
    amp = torch.autocast(device.type, enabled=bool({'amp', 'bf16'} & set(options)), dtype=dtype)
    image = read_image(args)

    ours = isinstance(model, CenterMask)
    if args.train:
        if 'plain' not in options and (ours or 'compile' in options):
            prepare_for_training(model, winograd='direct' not in options, compile='compile' in options)
        run = training_step(model.train(), image, cfg, args, amp, timer)
        return Candidate(spec, run, timer, args.batch_size, facts)

    model.eval()
    if args.detections:
        fix_detections(model, args.detections)
    pipeline = test_pipeline_of(cfg, args.resize)

    def load() -> dict:
        samples = [pipeline(loaded(image)) for _ in range(args.batch_size)]
        return {key: [sample[key] for sample in samples] for key in ('inputs', 'data_samples')}

    @torch.inference_mode()
    def run() -> list:
        with timer.stage('data'):
            batch = load()
        with timer.stage('other'), amp:
            predictions = [sample.pred_instances.get('masks') for sample in model.test_step(batch)]
            if None in predictions:
                raise InputError(f'{path}: {type(model).__name__} predicts no masks, which is what is measured here')
            with timer.stage('encoding'):
                return [
                    list(masks) if isinstance(masks, RLEMasks) else encode_mask_results(masks.cpu().numpy())
                    for masks in predictions
                ]

    facts['input'] = list(load()['inputs'][0].shape[1:])
    # Of the model as it is, whatever computes it faster.
    with FlopCounterMode(display=False) as counter:
        facts['found'] = len(run()[-1])
    facts['gflops'] = counter.get_total_flops() / args.batch_size / 1e9
    if 'plain' not in options and (ours or 'compile' in options):
        prepare_for_inference(model, winograd='direct' not in options, compile='compile' in options)
    watch_stages(model, timer)
    return Candidate(spec, run, timer, args.batch_size, facts)


def measure(candidates: list[Candidate], args: argparse.Namespace) -> list[dict]:
    """Run all candidates in turns."""
    seconds: dict[str, list[dict]] = {candidate.name: [] for candidate in candidates}
    for i in range(args.warmup + args.runs):
        for candidate in candidates:
            candidate.timer.reset()
            candidate.run()
            if i >= args.warmup:
                seconds[candidate.name].append(candidate.timer.seconds())
    results = []
    for candidate in candidates:
        runs = seconds[candidate.name]
        totals = [sum(value for stage, value in run.items() if stage != 'data') for run in runs]
        median = statistics.median(totals)
        results.append(
            dict(
                model=candidate.name,
                total=spread(totals),
                images_per_s=candidate.num_images / median,
                stages={
                    stage: spread([run.get(stage, 0.0) for run in runs])
                    for stage in STAGES
                    if any(stage in run for run in runs)
                },
                extra_memory_mb=extra_memory(candidate.run, args.device),
                **candidate.facts,
            )
        )
        # Each run of a pair meets the same machine: the median of the ratios is steadier than the ratio of medians.
        first = [sum(v for k, v in run.items() if k != 'data') for run in seconds[candidates[0].name]]
        results[-1]['share_of_first'] = statistics.median(total / one for total, one in zip(totals, first))
    return results


def watch_stages(model: torch.nn.Module, timer: StageTimer) -> None:
    """Tell the timer where the stages of a detector are."""
    timer.watch(model.data_preprocessor, 'forward', 'data')
    timer.watch(model.backbone, 'forward', 'backbone')
    if model.with_neck:
        timer.watch(model.neck, 'forward', 'neck')
    roi_head = getattr(model, 'roi_head', None)
    # Heads of one-stage models predict masks, too.
    for name, stage in (('bbox_head', 'box head'), ('mask_head', 'mask head'), ('panoptic_head', 'mask head')):
        if roi_head is None and getattr(model, name, None) is not None:
            timer.watch(getattr(model, name), 'forward', stage)
            if hasattr(getattr(model, name), 'predict_by_feat'):
                timer.watch(getattr(model, name), 'predict_by_feat', 'post-processing')
    if roi_head is not None:
        for name in ('bbox_head', 'rpn_head'):
            if getattr(model, name, None) is not None:
                timer.watch(getattr(model, name), 'predict', 'box head')
        if getattr(roi_head, 'with_bbox', False):
            timer.watch(roi_head, 'predict_bbox', 'box head')
            timer.watch(roi_head.bbox_roi_extractor, 'forward', 'RoIAlign')
        timer.watch(roi_head.mask_roi_extractor, 'forward', 'RoIAlign')
        timer.watch(roi_head.mask_head, 'forward', 'mask head')
        if isinstance(roi_head.mask_head, SAGMaskHead):
            timer.watch(roi_head.mask_head, 'forward_of_class', 'mask head')
        timer.watch(roi_head.mask_head, 'predict_by_feat', 'post-processing')
        if getattr(roi_head, 'mask_iou_head', None) is not None:
            timer.watch(roi_head.mask_iou_head, 'forward', 'MaskIoU')
    for module, name in (
        (base_dense_head, 'batched_nms'),
        (rpn_head, 'batched_nms'),
        (rtmdet_ins_head, 'batched_nms'),
        (bbox_nms, 'batched_nms'),
        (centermask_fcos_head, 'class_by_class_nms'),
    ):
        timer.watch(module, name, 'NMS')


def read_image(args: argparse.Namespace) -> np.ndarray:
    if args.image is None:
        return np.random.default_rng(0).integers(0, 256, (*args.size, 3), dtype=np.uint8)
    image = mmcv.imread(args.image) if Path(args.image).is_file() else None
    if image is None:
        raise InputError(f'image {args.image} cannot be read, check the path')
    return image
