"""Tiny models with CenterMask's mask branch behind the box heads that configs/centermask_any/README.md lists."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.registry import init_default_scope

CONFIGS = Path(__file__).parents[2] / 'configs'
PAGE = (CONFIGS / 'centermask_any/README.md').read_text()
TABLE = PAGE.partition('<!-- heads -->')[2].partition('<!-- /heads')[0]
HEADS = dict(re.findall(r'^\| ([\w-]+) \| `(.*?)` \|', TABLE, flags=re.MULTILINE))
CHANNELS, NUM_CLASSES, MAX_PER_IMG = 32, 3, 5

RESNET = dict(type='ResNet', depth=18, base_channels=8, out_indices=(1, 2, 3))


def tiny_config(
    path: str,
    levels: int = 0,
    backbone: dict = RESNET,
    channels: Sequence[int] = (16, 32, 64),
    num_classes: int = NUM_CLASSES,
    **options,
) -> ConfigDict:
    """Config of a tiny backbone and mask branch with the box head of a config of MMDetection.

    Args:
        path: The config.
        levels: Number of FPN levels; 0: as many as the config has.
        backbone: Config of the backbone.
        channels: Its channels.
        num_classes: Number of classes.
        **options: Merged into the box head.
    """
    init_default_scope('mmdet')
    detector = get_config(f'mmdet::{path}').model
    model = Config.fromfile(CONFIGS / '_base_/models/sag_branch_lite.py').sag_branch
    roi_head = model.roi_head
    narrow = dict(in_channels=CHANNELS, num_classes=num_classes)
    roi_head.mask_roi_extractor.out_channels = CHANNELS
    roi_head.mask_head.update(narrow, conv_out_channels=CHANNELS)
    roi_head.mask_iou_head.update(narrow, conv_out_channels=CHANNELS, fc_out_channels=CHANNELS)
    model.data_preprocessor.type = 'DetDataPreprocessor'
    model.backbone = dict(backbone)
    model.neck = dict(
        type='FPN',
        in_channels=list(channels),
        out_channels=CHANNELS,
        num_outs=levels or detector.neck.get('num_outs', 3),
        add_extra_convs='on_output',
    )
    model.bbox_head = ConfigDict(detector.bbox_head, feat_channels=CHANNELS, **narrow, **options)
    model.train_cfg.bbox_head = detector.get('train_cfg')
    # Detections of a head that has learnt nothing.
    model.train_cfg.proposal.update(score_thr=0.0, max_per_img=20)
    model.test_cfg.bbox_head = ConfigDict(detector.test_cfg, score_thr=0.0, max_per_img=MAX_PER_IMG)
    for cfg in (model.train_cfg, model.test_cfg):
        cfg.pop('_delete_')
    return model


def tiny(*args, **options) -> torch.nn.Module:
    """The model of :func:`tiny_config`."""
    torch.manual_seed(0)
    model = MODELS.build(tiny_config(*args, **options))
    model.init_weights()
    return model


def lively(path: str) -> torch.nn.Module:
    """The model of :func:`tiny_config` in evaluation mode, with random weights whose scores differ."""
    model = tiny(path)
    for module in model.bbox_head.modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.std() < 0.02:
            torch.nn.init.normal_(module.weight, std=0.05)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    return model.eval()
