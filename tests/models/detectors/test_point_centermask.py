"""CenterMask by points as a whole: its configs build, and it fits a few images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from demo_shapes import make_demo_shapes
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from support.reference import make_batch
from support.tiny import ground_truth, images
from support.tiny_points import build_points, fcos_points_model, points_model
from support.tiny_training import assert_resumes_bit_by_bit, build_runner, rectangles_config, write_rectangles

from mmdet_sag.models import PointCenterMask

CONFIGS = Path(__file__).parents[3] / 'configs/centermask_points'
BOX_LOSSES = {
    points_model: ('loss_center_heatmap', 'loss_wh', 'loss_offset'),
    fcos_points_model: ('loss_cls', 'loss_bbox', 'loss_centerness'),
}
EMPTY = (np.zeros((0, 4)), [], [])


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda path: path.stem)
def test_a_config_builds(path):
    init_default_scope('mmdet')
    config = Config.fromfile(path)
    if config.model.backbone.type == 'TIMMBackbone':
        pytest.importorskip('timm')
    with torch.device('meta'):
        model = MODELS.build(config.model)
        side = config.model.data_preprocessor.get('pad_size_divisor', 32) * 2
        scores = model.eval()(torch.zeros(1, 3, side, side), mode='tensor')[0][0]
    assert isinstance(model, PointCenterMask)
    side //= model.bbox_head.stride
    assert scores.shape == (1, model.bbox_head.num_classes, side, side)


@pytest.mark.parametrize('options', [{}, dict(shape_size=0), dict(saliency=None)], ids=['both', 'saliency', 'shape'])
@pytest.mark.parametrize(
    'truths',
    [
        [EMPTY, EMPTY],
        [EMPTY, ground_truth((8, 8, 40, 40), (8, 8, 40, 41), (63, 0, 64, 1))],
        # What a crop leaves of an object none of whose pixels it keeps, and this mirrored.
        [ground_truth((0, 0, 0, 0), (8, 8, 40, 40), (96, 0, 96, 0)), ground_truth((96, 64, 96, 64))],
    ],
    ids=['none', 'some', 'without area'],
)
@pytest.mark.parametrize('kind', [points_model, fcos_points_model])
def test_all_parameters_learn(kind, options, truths, device):
    model = build_points(kind, num_classes=3, **options).to(device)
    batch = make_batch(images((64, 96), (50, 64)), truths)
    losses = model.train()(**model.data_preprocessor(batch, training=True), mode='loss')
    assert set(losses) == {'loss_mask', *BOX_LOSSES[kind]}
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(('name', 'num_images', 'max_iters'), [('points', 8, 120), ('points-fcos', 4, 70)])
def test_a_few_images_are_fitted(name, num_images, max_iters, tmp_path, monkeypatch):
    monkeypatch.setattr(Config, 'pretty_text', '')
    size = 64
    make_demo_shapes(tmp_path / 'data', num_images, 1, size, 0)
    config = Config.fromfile(CONFIGS / f'centermask-{name}_demo.py')
    for split in ('train', 'val', 'test'):
        loader = config[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.update(
            data_root=f'{tmp_path}/data/',
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017/'),
        )
        if split != 'train':
            loader.dataset.pipeline[1].scale = (size, size)
            config[f'{split}_evaluator'].ann_file = f'{tmp_path}/data/annotations/instances_train2017.json'
    config.train_dataloader.batch_size = 4
    config.train_cfg.update(max_iters=max_iters, val_interval=max_iters)
    config.optim_wrapper.optimizer.lr = 0.002
    config.param_scheduler[1].update(end=max_iters, T_max=max_iters - 50)
    config.default_hooks.checkpoint = None
    config.custom_hooks = []
    runner = build_runner(config, tmp_path / 'run', launcher='none')
    runner.train()
    metrics = runner.message_hub.log_scalars
    assert metrics['val/coco/bbox_mAP_50'].current() > 0.9
    assert metrics['val/coco/segm_mAP_50'].current() > 0.8


def test_a_training_beside_fcos_is_resumed_bit_by_bit(tmp_path):
    write_rectangles(tmp_path / 'data')
    config = rectangles_config(tmp_path / 'data')
    # Fewer than the positive locations, which are drawn at random.
    config.model = fcos_points_model(max_masks_to_train=5)
    assert_resumes_bit_by_bit(config, tmp_path)
