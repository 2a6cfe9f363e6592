"""Masks' post-processing alone, MMDetection's way and ours."""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmark_measures import boxes_in, extra_memory, mask_logits, spread
from benchmark_report import milliseconds
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import FCNMaskHead
from mmdet.structures.mask import encode_mask_results
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from mmdet_sag.errors import InputError
from mmdet_sag.models.roi_heads.mask_heads.sag_mask_head import SAGMaskHead


def measure_masks(size: tuple[int, int], args: argparse.Namespace) -> dict:
    """Time and memory from the probabilities of masks to COCO's encoding, MMDetection's way and ours."""
    height, width = size
    logits = mask_logits(args.num_masks, (28, 28)).to(args.device)
    boxes = boxes_in(args.num_masks, height, width).to(args.device)
    labels = torch.zeros(len(boxes), dtype=torch.long, device=args.device)
    meta = dict(ori_shape=size, scale_factor=(1.0, 1.0))
    test_cfg = ConfigDict(mask_thr_binary=0.5, rle_masks=True)
    head = SAGMaskHead(num_classes=1)

    def post_process(predict: Callable, rows: slice = slice(None), meta: dict = meta) -> Any:
        results = InstanceData(bboxes=boxes[rows].clone(), labels=labels[rows])
        return predict(head, [logits[rows]], [results], [meta], test_cfg, rescale=True)[0].masks

    ways = dict(
        mmdetection=lambda: encode_mask_results(post_process(FCNMaskHead.predict_by_feat).cpu().numpy()),
        ours=lambda: list(post_process(SAGMaskHead.predict_by_feat)),
    )
    # What is loaded at the first use of anything is no memory of the work itself.
    post_process(SAGMaskHead.predict_by_feat, slice(2), dict(meta, ori_shape=(80, 80)))
    memory = {name: extra_memory(way, args.device, warm_up=False) for name, way in reversed(ways.items())}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.runs):
        masks = []
        for name, way in ways.items():
            start = time.perf_counter()
            masks.append(way())
            seconds[name].append(time.perf_counter() - start)
        if masks[0] != masks[1]:
            raise RuntimeError('the two ways give different masks')
    ratio = statistics.median(a / b for a, b in zip(seconds['mmdetection'], seconds['ours']))
    return dict(
        size=list(size),
        num_masks=len(boxes),
        covered=((boxes[:, 2:] - boxes[:, :2]).prod(1).mean() / (height * width)).item(),
        seconds={name: spread(values) for name, values in seconds.items()},
        times_faster=ratio,
        extra_memory_mb=memory,
    )


def parse_size(text: str) -> tuple[int, int]:
    height, _, width = text.partition('x')
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise InputError(f'--masks {text}: write height and width as in 800x1333')
    return int(height), int(width)


def masks_line(result: dict) -> str:
    height, width = result['size']
    parts = [
        f'{name} {milliseconds(result["seconds"][name])} ms, {result["extra_memory_mb"][name] or 0:.1f} MB'
        for name in result['seconds']
    ]
    return f'{result["num_masks"]} masks on {height}x{width}: {"; ".join(parts)}; {result["times_faster"]:.1f} times'
