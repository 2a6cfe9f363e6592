"""A tiny CenterMask whose random weights detect something, for exports."""

from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope

from mmdet_sag.datasets.data_sources import config_images
from mmdet_sag.deployment.comparison import BOUNDS

from .tiny import CONFIG, tiny_config
from .tiny_training import rectangles_config, write_rectangles

SAG_CONFIGS = Path(__file__).parents[2] / 'configs/sag_mask'


def write_tiny(folder: Path) -> tuple[Path, Path]:
    """Write data, a config and a checkpoint into a folder; paths of the latter two."""
    init_default_scope('mmdet')
    write_rectangles(folder / 'data', num_images=4)
    config = rectangles_config(folder / 'data')
    # Pictures of different sizes, and more than one stride of padding.
    for name in ('test_dataloader', 'val_dataloader'):
        config[name].dataset.pipeline[1].scale = (90, 75)
        config[name].dataset.pipeline[1].backend = 'pillow'
    config.model.test_cfg.bbox_head.max_per_img = 12
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    make_lively(model)
    torch.save(dict(state_dict=model.state_dict()), folder / 'tiny.pth')
    config.dump(folder / 'tiny.py')
    return folder / 'tiny.py', folder / 'tiny.pth'


def assert_same_detections(detector: torch.nn.Module, exported: torch.nn.Module, config: Config, scores: str) -> None:
    """Compare an exported model with its detector on four images, by the attribute ``scores`` that ranks the masks."""
    for batch in config_images(config, 4):
        with torch.inference_mode():
            expected = detector.test_step(batch)[0].pred_instances
        found = exported.test_step(batch)[0].pred_instances
        assert len(found) == len(expected) > 3
        torch.testing.assert_close(found.bboxes, expected.bboxes, atol=BOUNDS['boxes'], rtol=0)
        torch.testing.assert_close(found[scores], expected[scores], atol=BOUNDS['scores'], rtol=0)
        assert found.labels.tolist() == expected.labels.tolist()
        assert (found.masks.to_ndarray() != expected.masks.to_ndarray()).mean() < 1e-3


def lively_tiny(path: Path = CONFIG, **options) -> torch.nn.Module:
    """The tiny model of a config, whose random weights detect something, in evaluation mode."""
    config: Config = tiny_config(path=path)
    config.merge_from_dict({f'model.{key}': value for key, value in options.items()})
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    make_lively(model)
    return model.eval()


# Configs of MMDetection for hosts that `configs/sag_mask` has none for.
_HOSTS = {
    'groie': 'mmdet::groie/mask-rcnn_r50_fpn_groie_1x_coco.py',
    'ms-rcnn': 'mmdet::ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py',
}


def lively_two_stage(name: str) -> torch.nn.Module:
    """A tiny detector of ``configs/sag_mask`` or of MMDetection, with random weights that detect something.

    Its mask heads have spatial attention, and it is in evaluation mode.
    """
    init_default_scope('mmdet')
    if name in _HOSTS:
        config = get_config(_HOSTS[name]).model
        config.roi_head.mask_head.type = 'SAGMaskHead'
    else:
        config = Config.fromfile(SAG_CONFIGS / f'{name}_r50_fpn_sag_1x_coco.py').model
    config.backbone.update(init_cfg=None, depth=18, base_channels=8)
    config.neck.in_channels = [8, 16, 32, 64]
    config.test_cfg.rpn.max_per_img = 15
    config.test_cfg.rcnn.update(score_thr=0.03, max_per_img=6)
    torch.manual_seed(0)
    model = MODELS.build(config).eval()
    bbox_heads = model.roi_head.bbox_head
    for head in bbox_heads if isinstance(bbox_heads, torch.nn.ModuleList) else [bbox_heads]:
        torch.nn.init.normal_(head.fc_cls.weight, std=0.3)
        torch.nn.init.normal_(head.fc_reg.weight, std=0.01)
    torch.nn.init.normal_(model.rpn_head.rpn_cls.weight, std=0.3)
    return model


def make_lively(model: torch.nn.Module) -> None:
    """Spread the scores, boxes and masks of a model's random weights."""
    head, roi_head = model.bbox_head, model.roi_head
    torch.nn.init.normal_(head.conv_cls.weight, std=0.3)
    torch.nn.init.constant_(head.conv_cls.bias, -2.0)
    torch.nn.init.normal_(head.conv_reg.weight, std=0.1)
    torch.nn.init.constant_(head.conv_reg.bias, 2.0 if head.norm_on_bbox else 3.0)
    torch.nn.init.normal_(roi_head.mask_head.conv_logits.weight, std=0.5)
    if roi_head.mask_iou_head is not None:
        torch.nn.init.constant_(roi_head.mask_iou_head.fc_mask_iou.bias, 0.6)
