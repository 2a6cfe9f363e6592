from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.runner import Runner
from support.tiny_panoptic import shapes_config, write_shapes

from mmdet_sag.engine.hooks import AtomicCheckpointHook

CONFIGS = sorted((Path(__file__).parents[2] / 'configs/panoptic_centermask').glob('*_coco-panoptic.py'))


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'shapes'
    write_shapes(root, num_train=4, num_val=1)
    return root


def on_shapes(config, root):
    """The config's data loaders and evaluators on the small data set, with its own pipelines."""
    shapes = shapes_config(root)
    for split in ('train', 'val', 'test'):
        dataset = shapes[f'{split}_dataloader'].dataset
        config[f'{split}_dataloader'].update(batch_size=1, num_workers=0, persistent_workers=False)
        config[f'{split}_dataloader'].dataset.update(
            {key: dataset[key] for key in ('data_root', 'metainfo', 'ann_file', 'panoptic_ann_file', 'data_prefix')}
        )
    config.val_evaluator = config.test_evaluator = shapes.test_evaluator
    return config


def test_there_are_the_six():
    assert len(CONFIGS) == 6


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_runner_takes_the_config(path, root, tmp_path):
    config = on_shapes(Config.fromfile(path), root)
    assert config.model.test_cfg.panoptic == dict(score_thr=0.5, mask_overlap=0.5, stuff_area_limit=4096)
    # Hooks, loops, loaders and evaluators are the config's; the model is too large for a test.
    config.model = dict(type='CenterMaskSemanticHead', in_channels=32, inner_channels=32)
    config.work_dir = str(tmp_path)
    config.experiment_name = path.stem
    runner = Runner.from_cfg(config)
    assert 'NumClassCheckHook' not in [type(hook).__name__ for hook in runner.hooks]
    (checkpoint_hook,) = [hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)]
    assert checkpoint_hook.key_indicators == ['coco_panoptic/PQ']
    assert len(runner.test_evaluator.metrics) == 2


def test_the_semantic_target_is_resized_by_the_nearest_pixel_and_flipped_with_the_image(root):
    config = on_shapes(Config.fromfile(CONFIGS[0]), root)
    dataset = DATASETS.build(config.train_dataloader.dataset)
    labels = {segment['category'] for segment in dataset.get_data_info(0)['segments_info']}
    flips = set()
    for _ in range(40):
        sample = dataset[0]
        target = sample['data_samples'].gt_sem_seg.sem_seg
        assert target.dtype == torch.uint8
        assert target.shape[1:] == sample['inputs'].shape[1:]
        assert set(np.unique(target)) <= labels | {255}
        # An object's pixels are where its polygon is, whatever was done to the image.
        instances = sample['data_samples'].gt_instances
        masks, classes = instances.masks.to_ndarray().astype(bool), instances.labels.tolist()
        for mask, label in zip(masks, classes):
            assert (target[0].numpy()[mask] == label).mean() > 0.85
        flips.add(sample['data_samples'].flip)
        if len(flips) == 2:
            break
    assert flips == {False, True}
