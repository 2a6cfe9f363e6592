"""A config and a checkpoint of a tiny CenterMask that finds something everywhere."""

from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from .tiny_training import CLASSES, rectangles_config, write_rectangles


def write_tiny_checkpoint(folder: Path, num_images: int = 4) -> Config:
    """Write ``config.py``, ``model.pth`` and, into ``data``, images with annotations."""
    write_rectangles(folder / 'data', num_images=num_images)
    config = rectangles_config(folder / 'data')
    config.model.test_cfg.bbox_head.score_thr = 0.0
    config.dump(folder / 'config.py')
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    # Random weights find nothing; these find objects everywhere.
    torch.nn.init.constant_(model.bbox_head.conv_cls.bias, 1.0)
    torch.nn.init.constant_(model.bbox_head.conv_reg.bias, 2.0)
    meta = dict(dataset_meta=dict(classes=CLASSES, palette=[(220, 20, 60), (0, 130, 255)]))
    torch.save(dict(meta=meta, state_dict=model.state_dict()), folder / 'model.pth')
    return config
