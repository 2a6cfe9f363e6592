"""Test-time augmentation from the command line."""

import json
import os
import pickle
import subprocess
from pathlib import Path

import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from support.tiny import import_classes
from support.tiny_training import CLASSES, SIZE, write_rectangles
from support.tool import run_tool

from mmdet_sag.engine.tta import use_tta

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A folder with a data set of rectangles."""
    folder = tmp_path_factory.mktemp('tta')
    write_rectangles(folder / 'data', num_images=2)
    return folder


def write_config(folder: Path, base: str, model: dict) -> Path:
    """Write a config that tests ``base`` with a small backbone on the rectangles; it has no test-time augmentation."""
    config = Config.fromfile(base) if Path(base).is_file() else get_config(f'mmdet::{base}')
    config.model.backbone = dict(type='ResNet', depth=18, init_cfg=None)
    config.model.neck.in_channels = [64, 128, 256, 512]
    config.merge_from_dict(dict(model=model))
    config.test_dataloader.update(num_workers=0, persistent_workers=False)
    config.test_dataloader.dataset.update(
        data_root=f'{folder}/data/',
        ann_file='annotations.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=CLASSES),
    )
    config.test_dataloader.dataset.pipeline[1].scale = (SIZE, SIZE)
    config.test_evaluator.ann_file = f'{folder}/data/annotations.json'
    path = folder / f'{Path(base).stem}.py'
    config.dump(path)
    return path


def write_demo_config(folder: Path, name: str) -> Path:
    """Write a config of the demo that tests its model on the rectangles, and keeps detections of any score."""
    config = Config.fromfile(ROOT / 'configs' / name)
    dataset = dict(data_root=f'{folder}/data/', ann_file='annotations.json', data_prefix=dict(img='images/'))
    config.test_dataloader.update(num_workers=0, persistent_workers=False)
    config.test_dataloader.dataset.update(dataset)
    config.test_evaluator.ann_file = f'{folder}/data/annotations.json'
    config.test_dataloader.dataset.metainfo = dict(classes=CLASSES)
    detector = config.model.get('detector', config.model)
    detector.test_cfg.bbox_head.score_thr = 0.0
    for head in (detector.bbox_head, detector.roi_head.mask_head, detector.roi_head.mask_iou_head):
        head.num_classes = len(CLASSES)
    path = folder / f'{Path(name).stem}.py'
    config.dump(path)
    return path


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    arguments = (*arguments, '--work-dir', folder / 'work', '--tta')
    return run_tool(ROOT / 'tools/test.py', *arguments, cwd=folder, env=environment)


def test_each_view_has_the_ground_truth_of_the_image_as_it_is(folder):
    config = Config.fromfile(write_demo_config(folder, 'centermask_lite/centermask-lite_demo.py'))
    init_default_scope('mmdet')
    plain = DATASETS.build(config.test_dataloader.dataset)[0]['data_samples'].gt_instances
    use_tta(config)
    views = DATASETS.build(config.test_dataloader.dataset)[0]['data_samples']
    assert [view.flip for view in views] == [True, False]
    for view in views:
        assert torch.equal(view.gt_instances.bboxes.tensor, plain.bboxes.tensor)


@pytest.mark.parametrize('name', ['mask-rcnn', 'cascade-mask-rcnn'])
def test_a_two_stage_detector_with_masks_is_augmented_without_settings(folder, name):
    heads = [dict(num_classes=len(CLASSES))] * 3
    model = dict(
        roi_head=dict(
            bbox_head={str(stage): head for stage, head in enumerate(heads)}
            if name.startswith('cascade')
            else heads[0],
            mask_head=heads[0],
        ),
        test_cfg=dict(rpn=dict(max_per_img=30), rcnn=dict(score_thr=0.0, max_per_img=5)),
    )
    path = write_config(folder, str(ROOT / f'configs/sag_mask/{name}_r50_fpn_sag_1x_coco.py'), model)
    assert 'tta_model' not in Config.fromfile(path)
    model = MODELS.build(Config.fromfile(path).model)
    torch.save(dict(meta=dict(), state_dict=model.state_dict()), folder / f'{name}.pth')
    job = run(folder, path, folder / f'{name}.pth', '--out', folder / f'{name}.pkl')
    assert job.returncode == 0, job.stderr[-3000:]
    metrics = [json.loads(file.read_text()) for file in folder.glob('work/*/*.json')]
    assert any('coco/segm_mAP' in metric for metric in metrics)
    predictions = pickle.loads((folder / f'{name}.pkl').read_bytes())
    assert all(len(prediction['pred_instances']['masks']) == 5 for prediction in predictions)


@pytest.mark.parametrize(
    'name', ['centermask_lite/centermask-lite_demo.py', 'polite_teacher/polite-teacher_centermask-lite_demo.py']
)
def test_centermask_is_augmented_without_settings(folder, name):
    path = write_demo_config(folder, name)
    assert 'tta_model' not in Config.fromfile(path)
    model = MODELS.build(Config.fromfile(path).model)
    if 'polite' not in name:
        import_classes(path)
    torch.save(dict(meta=dict(), state_dict=model.state_dict()), path.with_suffix('.pth'))
    job = run(folder, path, path.with_suffix('.pth'), '--out', path.with_suffix('.pkl'))
    assert job.returncode == 0, job.stderr[-3000:]
    predictions = pickle.loads(path.with_suffix('.pkl').read_bytes())
    assert any(len(prediction['pred_instances']['masks']) for prediction in predictions)


def test_the_class_of_a_config_s_own_model_may_be_imported(folder):
    path = write_demo_config(folder, 'centermask_lite/centermask-lite_demo.py')
    with path.open('a') as file:
        file.write("\ntta_model = dict(type='CenterMaskTTAModel', tta_cfg=dict(nms=dict(type='nms'), max_per_img=9))")
    import_classes(path)
    config = Config.fromfile(path)
    use_tta(config)
    # The runner logs the config.
    assert "type='mmdet_sag.models.CenterMaskTTAModel'" in config.pretty_text


@pytest.mark.parametrize('base', ['htc/htc-without-semantic_r50_fpn_1x_coco.py', 'solo/solo_r50_fpn_1x_coco.py'])
def test_masks_that_cannot_be_merged_are_refused_before_anything_is_loaded(folder, base):
    job = run(folder, write_config(folder, base, {}), folder / 'absent.pth')
    assert job.returncode == 2
    (line,) = [line for line in job.stderr.splitlines() if line.startswith('error: ')]
    assert 'cannot be merged; set tta_model' in line and 'Traceback' not in job.stderr
