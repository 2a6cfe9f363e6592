"""A CenterMask by points that is small enough to train and test in milliseconds."""

from collections.abc import Callable
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet_sag.models import PointCenterMaskFCOSHead

from .tiny_training import CLASSES, rectangles_config, write_rectangles

CONFIG = Path(__file__).parents[2] / 'configs/centermask_points/centermask-points_r18_8xb16-crop512-140e_coco.py'


def points_model(**head) -> Config:
    """Config of the published layout's model, narrow, without pretrained weights and with options of its head."""
    model = Config.fromfile(CONFIG).model
    model.backbone.update(init_cfg=None, base_channels=8)
    model.neck.update(in_channels=64, num_deconv_filters=(32, 32, 32))
    model.bbox_head.update(in_channels=32, feat_channels=32, num_classes=len(CLASSES), mask_size=32)
    model.bbox_head.update(head)
    return model


def fcos_points_model(**head) -> Config:
    """Config of the demo's model beside FCOS, for few classes and with options of its head."""
    model = Config.fromfile(CONFIG.with_name('centermask-points-fcos_demo.py')).model
    model.bbox_head.update({'num_classes': len(CLASSES), **head})
    return model


def build_points(model: Callable[..., Config] = points_model, **head) -> torch.nn.Module:
    """Build and initialize the model of :func:`points_model` or :func:`fcos_points_model`."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(model(**head))
    model.init_weights()
    return model


def make_lively(model: torch.nn.Module) -> None:
    """Spread the features, scores, boxes and masks of a model's random weights."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train().extract_feat(torch.randn(4, 3, 64, 64))
    head = model.eval().bbox_head
    for name, std in dict(heatmap=0.3, wh=0.05, shape=0.5, saliency=1.0).items():
        if getattr(head, f'{name}_head', None) is not None:
            torch.nn.init.normal_(getattr(head, f'{name}_head')[-1].weight, std=std)
    if isinstance(head, PointCenterMaskFCOSHead):
        torch.nn.init.normal_(head.conv_cls.weight, std=0.5)
        torch.nn.init.constant_(head.conv_reg.bias, 2.0)
    else:
        torch.nn.init.constant_(head.wh_head[-1].bias, 6.0)


def write_points(folder: Path, model: Callable[..., Config] = points_model) -> tuple[Path, Path]:
    """Write data, a config and a checkpoint that detects something into a folder; paths of the latter two."""
    write_rectangles(folder / 'data', num_images=4)
    config = rectangles_config(folder / 'data')
    config.model = model()
    for name in ('test_dataloader', 'val_dataloader'):
        config[name].dataset.pipeline[1].scale = (90, 75)
    config.model.test_cfg.max_per_img = 12
    detector = build_points(model)
    make_lively(detector)
    torch.save(dict(state_dict=detector.state_dict()), folder / 'tiny.pth')
    config.dump(folder / 'tiny.py')
    return folder / 'tiny.py', folder / 'tiny.pth'
