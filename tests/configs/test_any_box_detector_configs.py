"""The mask branch on box detectors of MMDetection: every config trains small, with its own recipe."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from support.tiny_training import CLASSES, build_runner, write_rectangles

CONFIGS = sorted((Path(__file__).parents[2] / 'configs/centermask_any').glob('*coco.py'))


def small(value: object) -> object:
    """A part of a config with its sizes in pixels, which are the only numbers from 480 on, divided by ten."""
    if isinstance(value, dict):
        return {key: small(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(small, value))
    return value // 10 if isinstance(value, int) and value >= 480 else value


def narrow(model: ConfigDict) -> None:
    """Make a model of a config small, and give it the classes of the tiny data."""
    backbone, roi_head, channels = model.backbone, model.roi_head, 32
    backbone.init_cfg = None
    backbone.update(dict(depth=18, base_channels=8) if 'depth' in backbone else dict(widen_factor=1 / 8))
    widths = [8 * 2**i for i in backbone.out_indices] if 'depth' in backbone else [32, 64, 128]
    model.neck.update(in_channels=widths, out_channels=channels)
    roi_head.mask_roi_extractor.out_channels = channels
    roi_head.mask_iou_head.fc_out_channels = channels
    for head in (model.bbox_head, roi_head.mask_head, roi_head.mask_iou_head):
        head.update({key: channels for key in head if key in ('in_channels', 'feat_channels', 'conv_out_channels')})
        head.num_classes = len(CLASSES)
    if model.bbox_head.type == 'CenterMaskFCOSHead':
        # More than one value per group, also on a level of one position.
        model.bbox_head.norm_cfg = dict(type='GN', num_groups=8)
    model.test_cfg.bbox_head.update(score_thr=0.0, max_per_img=20)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('rectangles')
    write_rectangles(root, num_images=4)
    return root


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_it_trains_and_is_evaluated(path, data, tmp_path, monkeypatch):
    # MMEngine formats the config four times, which takes longer than the training.
    monkeypatch.setattr(Config, 'pretty_text', '')
    config = Config.fromfile(path)
    narrow(config.model)
    dataset = dict(data_root=f'{data}/', ann_file='annotations.json', data_prefix=dict(img='images/'))
    for split in ('train', 'val', 'test'):
        loader = config[f'{split}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.update(dataset, metainfo=dict(classes=CLASSES), pipeline=small(loader.dataset.pipeline))
    for split in ('val', 'test'):
        config[f'{split}_evaluator'].ann_file = f'{data}/annotations.json'
    config.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=2)
    switches = [hook for hook in config.get('custom_hooks', []) if hook.type == 'PipelineSwitchHook']
    for hook in switches:
        hook.update(switch_epoch=1, switch_pipeline=small(hook.switch_pipeline))
    config.default_hooks.logger.interval = 1
    config.default_hooks.checkpoint = None
    runner = build_runner(config, tmp_path, launcher='none')
    runner.train()
    scalars = runner.message_hub.log_scalars
    for name in ('loss_cls', 'loss_bbox', 'loss_mask', 'loss_mask_iou'):
        values = torch.tensor(scalars[f'train/{name}'].data[0])
        assert len(values) == 4
        assert values.isfinite().all()
    assert runner.iter == 4
    steps = [type(step).__name__ for step in runner.train_dataloader.dataset.pipeline.transforms]
    assert 'CachedMosaic' not in steps
    assert bool(switches) == ('rtmdet' in path.stem or 'yolox' in path.stem)
