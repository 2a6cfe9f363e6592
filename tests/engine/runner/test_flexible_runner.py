from pathlib import Path

import torch
from support.tiny_training import rectangles_config, write_rectangles
from support.tool import run_tool

TRAIN = Path(__file__).parents[3] / 'tools/train.py'


def test_a_strategy_resumes(tmp_path):
    write_rectangles(tmp_path / 'data')
    config = rectangles_config(tmp_path / 'data')
    config.custom_imports.imports.append('support.training_combinations')
    config.merge_from_dict(dict(train_cfg=dict(max_iters=4), default_hooks=dict(checkpoint=dict(save_best=None))))
    config.model = dict(type='SmallModel')
    config.val_evaluator = dict(type='ChangingScore')
    config.custom_hooks = []
    for hook in ('fast_training', 'class_count'):
        del config.default_hooks[hook]
    config.runner_type = 'FlexibleRunner'
    config.strategy = dict(type='SingleDeviceStrategy')
    config.dump(tmp_path / 'config.py')

    last = tmp_path / 'work/iter_4.pth'
    weights = []
    for _ in range(2):
        job = run_tool(TRAIN, tmp_path / 'config.py', '--work-dir', tmp_path / 'work', '--resume')
        assert job.returncode == 0, job.stderr[-3000:]
        weights.append(torch.load(last)['state_dict'])
        last.unlink()
    assert 'resumed epoch: 0, iter: 2' in job.stdout + job.stderr
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key
