"""A checkpoint of CenterMask's first implementation, from the file to results and to a fine-tuned model."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from support.reference import CONFIGS, DATA, checkpoint, read_arrays, read_json
from support.tiny_training import CLASSES, write_rectangles
from support.tool import run_tool

ROOT = Path(__file__).parents[2]
CASE = 'first_centermask-lite_v39'
CONFIG = CONFIGS / 'centermask_first/centermask-first-lite_v39_fpn_ms-4x_coco.py'


def run(*command):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    result = run_tool(ROOT / command[0], *command[1:], cwd=ROOT, env=env)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


@pytest.fixture(scope='module')
def converted(tmp_path_factory):
    """The reference's synthetic checkpoint, as its authors' files are and then converted."""
    folder = tmp_path_factory.mktemp('first')
    state_dict = checkpoint(read_json(f'{CASE}.json.gz'), read_arrays(DATA / f'{CASE}.npz'))
    state_dict = {f'module.{key}': value for key, value in state_dict.items()}
    torch.save({'model': state_dict, 'iteration': 360000}, folder / 'published.pth')
    output = run('tools/model_converters/centermask2_to_mmdet.py', folder / 'published.pth', folder / 'converted.pth')
    assert 'first implementation' in output and CONFIG.name in output
    return folder / 'converted.pth'


def test_its_results_on_files_are_those_of_the_first_implementation(converted, tmp_path):
    image = cv2.imread(str(DATA / f'{CASE}.png'))
    cv2.imwrite(str(tmp_path / 'image.png'), image)
    height, width = image.shape[:2]
    names = CocoDataset.METAINFO['classes']
    ground_truth = dict(
        images=[dict(id=7, file_name='image.png', width=width, height=height)],
        annotations=[
            dict(
                id=1,
                image_id=7,
                category_id=1,
                bbox=[10, 10, 30, 20],
                area=600,
                iscrowd=0,
                segmentation=[[10, 10, 40, 10, 40, 30, 10, 30]],
            )
        ],
        categories=[dict(id=i, name=name) for i, name in enumerate(names, 1)],
    )
    (tmp_path / 'annotations.json').write_text(json.dumps(ground_truth))
    run(
        'tools/test.py',
        CONFIG,
        converted,
        '--work-dir',
        tmp_path / 'work',
        # Corners are cut to whole pixels in pasting, and one is at 105.000: rounding as the reference does keeps it.
        '--no-channels-last',
        '--no-fuse-conv-bn',
        '--cfg-options',
        f'test_dataloader.dataset.data_root={tmp_path}/',
        'test_dataloader.dataset.ann_file=annotations.json',
        'test_dataloader.dataset.data_prefix.img=',
        # The short side of the image, so that it stays as it is.
        'test_dataloader.dataset.pipeline.1.scale=(1000,256)',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
        f'test_evaluator.ann_file={tmp_path}/annotations.json',
        f'test_evaluator.outfile_prefix={tmp_path}/results',
    )
    (metrics,) = [json.loads(path.read_text()) for path in (tmp_path / 'work').glob('2*/2*.json')]
    assert 0 <= metrics['coco/segm_mAP'] <= metrics['coco/segm_mAP_50']

    arrays, facts = read_arrays(DATA / f'{CASE}.npz'), read_json(f'{CASE}.json.gz')
    boxes = json.loads((tmp_path / 'results.bbox.json').read_text())
    expected = np.concatenate([arrays['boxes'][:, :2], arrays['boxes'][:, 2:] - arrays['boxes'][:, :2] + 1], axis=1)
    np.testing.assert_allclose([box['bbox'] for box in boxes], expected, rtol=0, atol=0.1)
    np.testing.assert_allclose([box['score'] for box in boxes], arrays['scores'], rtol=0, atol=2e-4)
    assert [box['category_id'] - 1 for box in boxes] == arrays['labels'].tolist()
    masks = json.loads((tmp_path / 'results.segm.json').read_text())
    np.testing.assert_allclose([mask['score'] for mask in masks], arrays['mask_scores'], rtol=0, atol=1e-3)
    for mask, rle in zip(masks[:: len(masks) // len(facts['rles'])], facts['rles'], strict=True):
        assert mask_utils.iou([mask['segmentation']], [rle], [0])[0, 0] >= 0.995


def test_it_is_fine_tuned_on_other_classes(converted, tmp_path):
    write_rectangles(tmp_path / 'data', num_images=4)
    config = Config.fromfile(CONFIG)
    data = dict(
        data_root=f'{tmp_path}/data/',
        ann_file='annotations.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=CLASSES),
    )
    loader = dict(num_workers=0, persistent_workers=False, dataset=data)
    heads = {name: dict(num_classes=len(CLASSES)) for name in ('mask_head', 'mask_iou_head')}
    config.merge_from_dict(
        dict(
            model=dict(backbone=dict(init_cfg=None), bbox_head=dict(num_classes=len(CLASSES)), roi_head=heads),
            load_from=str(converted),
            train_dataloader=loader,
            val_dataloader=loader,
            test_dataloader=loader,
            val_evaluator=dict(ann_file=f'{tmp_path}/data/annotations.json'),
            train_cfg=dict(max_iters=2, val_interval=2),
            default_hooks=dict(logger=dict(interval=1)),
            randomness=dict(seed=0),
        )
    )
    config.train_dataloader.dataset.pipeline[2].scale = [(96, 60), (96, 64)]
    config.val_dataloader.dataset.pipeline[1].scale = (96, 64)
    config.dump(tmp_path / 'config.py')
    run('tools/train.py', tmp_path / 'config.py', '--work-dir', tmp_path / 'work')
    (log,) = (tmp_path / 'work').glob('2*/vis_data/scalars.json')
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [step['loss'] for step in steps if 'loss' in step]
    assert len(losses) == 2 and all(np.isfinite(losses))
    assert any('coco/segm_mAP' in step for step in steps)
    trained = torch.load(tmp_path / 'work/iter_2.pth', weights_only=False)['state_dict']
    start = torch.load(converted, weights_only=True)['state_dict']
    assert trained['roi_head.mask_head.conv_logits.bias'].shape == (2,)
    key = 'roi_head.mask_head.convs.0.conv.weight'
    assert not torch.equal(trained[key], start[key]) and torch.allclose(trained[key], start[key], atol=0.01)
