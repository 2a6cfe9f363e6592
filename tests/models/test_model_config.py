from pathlib import Path

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from support.tiny import tiny_config
from torch.nn.modules.batchnorm import _BatchNorm

from mmdet_sag.models.model_config import unfreeze_random_backbones

CONFIGS = Path(__file__).parents[2] / 'configs'
# A config for each kind of backbone and each way of the zoo to freeze it.
OF_EACH_KIND = [
    'centermask/centermask_r50-caffe_fpn_ms-3x_coco.py',
    'centermask_lite/centermask-lite_mv2_fpn_ms-4x_coco.py',
    'centermask_lite/centermask-lite_v19-slim-dw_fpn_ms-4x_coco.py',
    'centermask_first/centermask-first_mv2_fpn_ms-3x_coco.py',
    'centermask_first/centermask-first_v19_fpn_ms-3x_coco.py',
    'panoptic_centermask/panoptic-centermask_r50-caffe_fpn_ms-3x_coco-panoptic.py',
    'sag_mask/mask-rcnn_r50_fpn_sag_1x_coco.py',
]
FREEZING = ('norm_cfg', 'norm_eval', 'frozen_stages')


def backbone_of(config: Config):
    init_default_scope('mmdet')
    backbone = MODELS.build(config.model.backbone)
    backbone.train()
    return backbone


@pytest.mark.parametrize('path', OF_EACH_KIND)
def test_all_of_a_random_backbone_is_learnt(path):
    config = Config.fromfile(CONFIGS / path)
    config.merge_from_dict({'model.backbone.init_cfg': None})
    frozen = backbone_of(config)
    assert not all(norm.training for norm in frozen.modules() if isinstance(norm, _BatchNorm))
    unfreeze_random_backbones(config)
    backbone = backbone_of(config)
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    assert all(norm.training and norm.eps >= 1e-5 for norm in norms)
    assert all(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize('path', sorted(map(str, CONFIGS.glob('*/*_coco*.py'))))
def test_no_config_with_pretrained_weights_changes(path):
    config = Config.fromfile(path)
    if config.model.backbone.get('init_cfg') is None:
        pytest.skip('no pretrained weights are named')
    before = config.model.to_dict()
    unfreeze_random_backbones(config)
    assert config.model.to_dict() == before


def test_pretrained_weights_are_seen_in_a_list_and_in_load_from():
    pretrained = dict(type='Pretrained', checkpoint='backbone.pth')
    for options in (
        {'model.backbone.init_cfg': [dict(type='Kaiming', layer='Conv2d'), pretrained]},
        {'model.init_cfg': pretrained},
        {'load_from': 'model.pth'},
    ):
        config = tiny_config()
        config.merge_from_dict(options)
        unfreeze_random_backbones(config)
        assert config.model.backbone.norm_eval
        assert config.model.backbone.norm_cfg.requires_grad is False
