"""A CenterMask small enough to train and test in milliseconds."""

import re
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

CONFIG = Path(__file__).parents[2] / 'configs/centermask_lite/centermask-lite_v19-slim-dw_fpn_ms-4x_coco.py'


def tiny_config(num_classes: int = 3, channels: int = 32, path: Path = CONFIG) -> Config:
    """CenterMask-Lite, or the config at ``path``, with narrow heads and without pretrained weights."""
    config = Config.fromfile(path)
    heads = dict(in_channels=channels, conv_out_channels=channels, num_classes=num_classes)
    config.merge_from_dict(
        dict(
            model=dict(
                backbone=dict(init_cfg=None),
                neck=dict(out_channels=channels),
                bbox_head=dict(
                    in_channels=channels,
                    feat_channels=channels,
                    num_classes=num_classes,
                    # More than one value per group, also on a level of one position.
                    norm_cfg=dict(type='GN', num_groups=8),
                ),
                roi_head=dict(
                    mask_roi_extractor=dict(out_channels=channels),
                    mask_head=heads,
                ),
            )
        )
    )
    if config.model.roi_head.mask_iou_head is not None:
        config.model.roi_head.mask_iou_head.update(fc_out_channels=64, **heads)
    return config


def import_classes(path: Path) -> None:
    """Let a config file import some of the classes that it names, as MMEngine's newer configs do."""
    modules = {
        'mmcv.transforms': ['LoadImageFromFile'],
        'mmdet.datasets': ['CocoDataset'],
        'mmdet.datasets.transforms': ['LoadAnnotations', 'PackDetInputs', 'Resize'],
        'mmdet_sag.models': ['CenterMask', 'CenterMaskTTAModel'],
    }
    lines = [f'from {module} import {", ".join(names)}' for module, names in modules.items()]
    names = '|'.join(name for names in modules.values() for name in names)
    lines.append(re.sub(rf"(type'?(?:=|: ))'({names})'", r'\1\2', path.read_text()))
    path.write_text('\n'.join(lines))


def build_tiny(seed: int = 0, path: Path = CONFIG, **options) -> torch.nn.Module:
    """Build and initialize the model of :func:`tiny_config`, with ``options`` merged into its config."""
    init_default_scope('mmdet')
    config = tiny_config(path=path)
    config.merge_from_dict({f'model.{key}': value for key, value in options.items()})
    torch.manual_seed(seed)
    model = MODELS.build(config.model)
    model.init_weights()
    return model


def sensitive(model: torch.nn.Module) -> torch.nn.Module:
    """Make the model find many objects: random weights alone find none."""
    torch.nn.init.constant_(model.bbox_head.conv_cls.bias, 1.0)
    torch.nn.init.constant_(model.bbox_head.conv_reg.bias, 2.0)
    torch.nn.init.constant_(model.roi_head.mask_iou_head.fc_mask_iou.bias, 0.5)
    return model


def images(*shapes: tuple[int, int]) -> list[np.ndarray]:
    """Noise of these heights and widths."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


def ground_truth(*boxes: tuple[float, float, float, float]) -> tuple:
    """Boxes, labels and polygons of rectangles, as ``make_batch`` takes them."""
    polygons = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes]
    return np.array(boxes), [i % 3 for i in range(len(boxes))], polygons
