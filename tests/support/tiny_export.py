"""A tiny CenterMask whose random weights detect something, for exports."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmcv.cnn import ConvAWS2d
from mmcv.ops import SAConv2d
from mmdet.models.backbones import DetectoRS_ResNet
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope

from mmdet_sag.datasets.data_sources import config_images
from mmdet_sag.deployment.comparison import BOUNDS
from mmdet_sag.models.backbones.vovnet import VoVNet, VoVNetArch
from mmdet_sag.visualization import InstanceLocalVisualizer

from .tiny import CONFIG, tiny_config
from .tiny_training import rectangles_config, write_rectangles

ROOT = Path(__file__).parents[2]
SAG_CONFIGS = ROOT / 'configs/sag_mask'
# The time of an export to ONNX grows with the number of layers, above all with that of layers of any height and width.
for name, depthwise in (('tiny', False), ('tiny-dw', True)):
    VoVNet.arch_settings[name] = VoVNetArch(
        (8, 8, 8), (8, 8, 8, 8), (16, 16, 16, 16), num_convs=1, num_blocks=(1, 1, 1, 1), depthwise=depthwise
    )
DetectoRS_ResNet.arch_settings['tiny'] = (DetectoRS_ResNet.arch_settings[50][0], (1, 1))
# Of a CenterMask: a backbone of few layers, four levels, and one conv in each tower.
FEW_LAYERS = {
    'backbone.arch': 'tiny-dw',
    'neck.in_channels': [16, 16, 16],
    'neck.num_outs': 4,
    'bbox_head.stacked_convs': 1,
    'bbox_head.strides': [8, 16, 32, 64],
    'roi_head.mask_head.num_convs': 1,
}


def run_here(monkeypatch: pytest.MonkeyPatch, path: str, *arguments: object) -> int:
    """Run a tool of this clone in this process; its exit status."""
    monkeypatch.setattr(sys, 'argv', [path, *map(str, arguments)])
    # MMEngine keeps them for the process, and with them the folder of an earlier run.
    InstanceLocalVisualizer._instance_dict.clear()
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / 'tools' / path), run_name='__main__')
    return end.value.code


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
    # With fewer convs, masks of random weights are near the threshold in too many pixels.
    few = {**FEW_LAYERS, 'roi_head.mask_head.num_convs': 4, 'roi_head.mask_iou_head.num_convs': 1}
    config.merge_from_dict({f'model.{key}': value for key, value in few.items()})
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
    'detectors': 'mmdet::detectors/detectors_htc-r50_1x_coco.py',
    'groie': 'mmdet::groie/mask-rcnn_r50_fpn_groie_1x_coco.py',
    'ms-rcnn': 'mmdet::ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py',
}


def lively_two_stage(name: str) -> torch.nn.Module:
    """A tiny detector of ``configs/sag_mask`` or of MMDetection, with random weights that detect something.

    Its mask heads have spatial attention, and it is in evaluation mode. It has all parts, but two stages of a ResNet,
    two levels, and two stages of a cascade.
    """
    init_default_scope('mmdet')
    if name in _HOSTS:
        config = get_config(_HOSTS[name]).model
        heads = config.roi_head.mask_head
        for head in heads if isinstance(heads, list) else [heads]:
            head.type = {'FCNMaskHead': 'SAGMaskHead', 'HTCMaskHead': 'SAGHTCMaskHead'}[head.type]
    else:
        config = Config.fromfile(SAG_CONFIGS / f'{name}_r50_fpn_sag_1x_coco.py').model
    _narrow(config)
    few: dict = dict(num_stages=2, out_indices=(0, 1), strides=(1, 2), dilations=(1, 1))
    few.update(init_cfg=None, base_channels=8)
    if name == 'detectors':
        # Its first stage has no switchable convs by itself.
        few.update(depth='tiny', base_channels=4, stage_with_sac=(True, True))
        config.neck.rfp_backbone.update(few, pretrained=None, rfp_inplanes=16)
        config.neck.update(in_channels=[16, 32], aspp_out_channels=4)
    else:
        few.update(depth=18)
        config.neck.in_channels = [8, 16]
    config.backbone.update(few)
    if 'num_stages' in config.roi_head:
        config.roi_head.num_stages = 2
    config.test_cfg.rpn.max_per_img = 15
    config.test_cfg.rcnn.update(score_thr=0.03, max_per_img=6)
    torch.manual_seed(0)
    model = MODELS.build(config).eval()
    bbox_heads = model.roi_head.bbox_head
    for head in bbox_heads if isinstance(bbox_heads, torch.nn.ModuleList) else [bbox_heads]:
        torch.nn.init.normal_(head.fc_cls.weight, std=0.3)
        torch.nn.init.normal_(head.fc_reg.weight, std=0.01)
    torch.nn.init.normal_(model.rpn_head.rpn_cls.weight, std=0.3)
    for module in model.modules():
        if isinstance(module, ConvAWS2d):
            # Standardised weights alone make features grow with each layer.
            module.weight_gamma.fill_(module.weight[0].numel() ** -0.5)
        if isinstance(module, SAConv2d):
            for part in (module.switch, module.offset_s, module.offset_l):
                torch.nn.init.normal_(part.weight, std=0.1)
            torch.nn.init.normal_(module.weight_diff, std=0.01)
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


_FEW = dict(num_outs=2, num_ins=2, num_convs=1)
_NARROW = {1024: 16, 256: 16, 80: 3, 183: 3}


def _narrow(config: dict) -> None:
    """Set the numbers of channels, classes, convs, levels and stages in a config and in its parts to small ones."""
    for key, value in config.items():
        if isinstance(value, dict):
            _narrow(value)
        elif key in ('bbox_head', 'mask_head', 'stage_loss_weights'):
            config[key] = value[:2]
            for part in filter(lambda part: isinstance(part, dict), config[key]):
                _narrow(part)
        elif key in ('strides', 'featmap_strides'):
            config[key] = value[:2]
        elif key in _FEW:
            config[key] = _FEW[key]
        elif isinstance(value, int) and (key.endswith('channels') or key == 'num_classes'):
            config[key] = _NARROW.get(value, value)


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
