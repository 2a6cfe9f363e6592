"""The recipes with large-scale jitter and copy-paste train, small, with images without objects among the others."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from support.tiny_training import CLASSES, build_runner, write_rectangles
from test_any_box_detector_configs import narrow, small

CONFIGS = sorted((Path(__file__).parents[2] / 'configs').glob('*/*copy-paste.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_it_trains_on_images_with_and_without_objects(path, tmp_path, monkeypatch):
    monkeypatch.setattr(Config, 'pretty_text', '')
    write_rectangles(tmp_path, num_images=4)
    ann_file = tmp_path / 'annotations.json'
    content = json.loads(ann_file.read_text())
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] > 2]
    ann_file.write_text(json.dumps(content))
    config = Config.fromfile(path)
    narrow(config.model)
    loader = config.train_dataloader
    loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    mixed = loader.dataset
    assert mixed.type == 'MultiImageMixDataset'
    assert mixed.dataset.pipeline[1].poly2mask is False
    mixed.dataset.update(
        data_root=f'{tmp_path}/',
        ann_file='annotations.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=CLASSES),
        filter_cfg=dict(filter_empty_gt=False),
        pipeline=small(mixed.dataset.pipeline),
    )
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    config.train_cfg = dict(type='ReproducibleIterBasedTrainLoop', max_iters=6)
    config.default_hooks.logger.interval = 1
    config.randomness = dict(seed=0)
    runner = build_runner(config, tmp_path / 'work', launcher='none')
    numbers = {len(sample['data_samples'].gt_instances) for _ in range(8) for sample in runner.train_dataloader.dataset}
    assert {0, 2} < numbers and max(numbers) > 2
    runner.train()
    losses = torch.tensor(runner.message_hub.log_scalars['train/loss_mask'].data[0])
    assert len(losses) == 6
    assert losses.isfinite().all()
