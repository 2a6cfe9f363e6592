import json

import pytest
import torch
from mmdet.registry import HOOKS
from mmengine.config import ConfigDict
from support.tiny_training import build_runner, rectangles_config, write_rectangles

from mmdet_sag.analysis.charts import read_scalars, training_chart
from mmdet_sag.errors import InputError


@pytest.fixture
def config(tmp_path):
    write_rectangles(tmp_path / 'data', num_images=3)
    config = rectangles_config(tmp_path / 'data')
    config.train_cfg.update(max_iters=2, val_interval=1)
    config.default_hooks.logger.log_metric_by_epoch = False
    config.custom_hooks = []
    # Batch norms and dropout, whose modes matter.
    config.model.neck.norm_cfg = dict(type='BN')
    config.model.backbone.update(norm_eval=False, norm_cfg=dict(type='BN'))
    return config


def test_the_losses_are_logged_and_change_nothing_of_the_training(config, tmp_path):
    plain = build_runner(config, tmp_path / 'plain')
    plain.train()
    config.custom_hooks = [dict(type='ValidationLossHook')]
    # A visualizer of its own, or the first run's would write.
    config.visualizer.name = 'validation_losses'
    runner = build_runner(config, tmp_path / 'run')
    runner.train()
    values = runner.model.state_dict()
    for key, value in plain.model.state_dict().items():
        assert torch.equal(value, values[key]), key
    records = read_scalars(tmp_path / 'run')
    validations = [record for record in records if 'val_loss' in record]
    assert len(validations) == 2
    for record in validations:
        parts = [value for name, value in record.items() if name.startswith('val_loss_')]
        assert sum(parts) == pytest.approx(record['val_loss'], rel=1e-4)
        assert len(parts) == 5
    assert validations[0]['val_loss'] != validations[1]['val_loss']
    assert 'total, validation' in json.dumps(training_chart(records))


def test_they_are_the_mean_of_the_losses_of_images_in_their_own_frame(config, tmp_path):
    # Twice the size of the files: annotations have to follow the images.
    for step in config.val_dataloader.dataset.pipeline:
        if step.type == 'Resize':
            step.scale = (128, 128)
    runner = build_runner(config, tmp_path)
    hook = HOOKS.build(dict(type='ValidationLossHook'))
    hook.before_val_epoch(runner)
    hook.before_val_epoch(runner)
    first = dict(hook.losses)
    steps = [type(step).__name__ for step in hook.dataloader.dataset.pipeline.transforms]
    assert steps == ['LoadImageFromFile', 'LoadAnnotations', 'Resize', 'PackDetInputs']
    data = next(iter(hook.dataloader))
    (sample,) = data['data_samples']
    # Testing loads annotations after the image is resized, so they stay as they are in the file.
    (tested,) = next(iter(runner.val_dataloader))['data_samples']
    torch.testing.assert_close(sample.gt_instances.bboxes.tensor, 2 * tested.gt_instances.bboxes.tensor)
    assert sample.gt_instances.masks.height == 128
    metrics = {}
    hook.after_val_epoch(runner, metrics)
    assert metrics == first


def test_a_data_set_without_a_pipeline_is_an_error(config, tmp_path):
    config.val_dataloader.dataset = ConfigDict(type='ConcatDataset', datasets=[config.val_dataloader.dataset])
    runner = build_runner(config, tmp_path)
    with pytest.raises(InputError, match='val_dataloader.dataset.pipeline'):
        HOOKS.build(dict(type='ValidationLossHook')).before_val_epoch(runner)
