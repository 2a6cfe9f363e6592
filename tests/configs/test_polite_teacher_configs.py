from pathlib import Path

import pytest
from mmengine.config import Config

CONFIGS = Path(__file__).parents[2] / 'configs/polite_teacher'
BURN_IN_ITERS = {1: 10000, 2: 15000, 5: 30000, 10: 15000}


@pytest.mark.parametrize('percent', BURN_IN_ITERS)
def test_schedules_are_the_published_ones(percent):
    share = f'{percent / 100:g}'
    method = Config.fromfile(CONFIGS / f'polite-teacher_centermask_r50-caffe_fpn_180k_semi-{share}-coco.py')
    folder, _, checkpoint = method.load_from[len('work_dirs/') :].partition('/')
    assert checkpoint == f'iter_{BURN_IN_ITERS[percent]}.pth'
    burn_in = Config.fromfile(CONFIGS / f'{folder}.py')
    assert burn_in.train_cfg.max_iters == BURN_IN_ITERS[percent]
    assert burn_in.train_dataloader.dataset.ann_file == f'semi_anns/instances_train2017.1@{percent}.json'
    files = [part.ann_file for part in method.train_dataloader.dataset.datasets]
    stem = f'semi_anns/instances_train2017.1@{percent}'
    assert files == [f'{stem}.json', f'{stem}-unlabeled.json']
    assert (burn_in.optim_wrapper.optimizer.lr, method.optim_wrapper.optimizer.lr) == (0.02, 0.006)
    assert (method.train_cfg.max_iters, method.param_scheduler[1].milestones) == (180000, [179990, 179995])
    (hook,) = method.custom_hooks
    assert (hook.momentum, hook.skip_buffer) == (0.0004, False)
    assert burn_in.model == method.model.detector


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('polite-teacher*coco.py')), ids=lambda path: path.stem)
def test_batches_are_half_labelled_and_views_differ_in_colour_alone(path):
    config = Config.fromfile(path)
    assert config.train_dataloader.sampler.source_ratio == [1, 1]
    assert config.train_dataloader.batch_size == config.train_dataloader.sampler.batch_size
    for part in config.train_dataloader.dataset.datasets:
        *_, resize, flip, branches = part.pipeline
        assert (resize.type, flip.type, branches.type) == ('RandomChoiceResize', 'RandomFlip', 'MultiBranch')
