"""Trainings in the ways that a CPU has not; those that it has are in the other tests."""

import uuid

import pytest
import torch
from mmengine.config import Config
from support.tiny_training import rectangles_config, write_rectangles

from mmdet_sag.engine.launch import build_runner

WAYS = {
    'float32': {},
    'accumulation': {'optim_wrapper.accumulative_counts': 2},
    'float16': {'optim_wrapper.type': 'AmpOptimWrapper'},
    'bfloat16': {'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.dtype': 'bfloat16'},
    'compiled': {'default_hooks.fast_training': dict(type='FastTrainingHook', compile=True)},
}


@pytest.mark.parametrize('way', WAYS)
def test_it_trains_and_is_tested(tmp_path, device, way):
    if device == 'cpu' or not torch.cuda.is_available():
        pytest.skip('needs a GPU')
    write_rectangles(tmp_path / 'data')
    config = Config(rectangles_config(tmp_path / 'data').to_dict())
    config.merge_from_dict({'optim_wrapper.clip_grad': dict(max_norm=1), **WAYS[way]})
    config.update(work_dir=str(tmp_path), launcher='none', experiment_name=uuid.uuid4().hex)
    runner = build_runner(config)
    runner.train()
    assert runner.train_dataloader.pin_memory and next(runner.model.parameters()).is_cuda
    losses = runner.message_hub.log_scalars['train/loss'].data[0]
    assert len(losses) == 6 and torch.tensor(losses).isfinite().all()
    assert 'coco/segm_mAP' in runner.test()
    saved = torch.load(tmp_path / 'iter_6.pth')['state_dict']
    assert all(value.device.type == 'cpu' and value.isfinite().all() for value in saved.values())
