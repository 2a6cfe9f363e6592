"""From a checkpoint as the authors publish it to an AP, through the command-line tools."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from support.reference import CASES, CONFIGS, DATA, read_json, synthetic_weight
from support.tool import run_tool

ROOT = Path(__file__).parents[2]
COCO_TINY = Path(os.environ.get('MMDET_SAG_COCO_TINY', ROOT.parent / 'shared/data/coco_tiny'))
CASE = 'centermask-lite_v19-slim'


def run(*command):
    env = {**os.environ, 'OMP_NUM_THREADS': '2', 'PYTHONWARNINGS': 'ignore'}
    result = run_tool(ROOT / command[0], *command[1:], cwd=ROOT, env=env)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    """The reference's synthetic checkpoint, in the file format of the published ones."""
    state_dict = {
        key: synthetic_weight(key, shape) for key, shape in read_json(f'{CASE}.json.gz')['parameters'].items()
    }
    with np.load(DATA / f'{CASE}.npz') as arrays:
        for key in arrays:
            if key.startswith('override/'):
                state_dict[key[len('override/') :]] = torch.from_numpy(arrays[key])
    path = tmp_path_factory.mktemp('published') / 'model_final.pth'
    torch.save({'model': state_dict}, path)
    return path


@pytest.mark.skipif(
    not COCO_TINY.is_dir(), reason=f'no COCO images in {COCO_TINY} (MMDET_SAG_COCO_TINY names another folder)'
)
def test_a_converted_checkpoint_is_evaluated_to_the_ap_that_pycocotools_finds(published, tmp_path):
    converted = tmp_path / 'converted.pth'
    run('tools/model_converters/centermask2_to_mmdet.py', published, converted)
    ann_file = COCO_TINY / 'annotations/instances_val2017.json'
    run(
        'tools/test.py',
        CONFIGS / CASES[CASE],
        converted,
        '--work-dir',
        tmp_path,
        '--cfg-options',
        f'test_dataloader.dataset.data_root={COCO_TINY}/',
        'test_dataloader.dataset.indices=10',
        'test_dataloader.dataset.pipeline.1.scale=(320,320)',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
        f'test_evaluator.ann_file={ann_file}',
        f'test_evaluator.outfile_prefix={tmp_path}/results',
    )
    (metrics,) = [json.loads(path.read_text()) for path in tmp_path.glob('2*/2*.json')]

    ground_truth = COCO(ann_file)
    results = json.loads((tmp_path / 'results.segm.json').read_text())
    assert len({result['image_id'] for result in results}) == 10
    evaluation = COCOeval(
        ground_truth, ground_truth.loadRes([{k: v for k, v in r.items() if k != 'bbox'} for r in results]), 'segm'
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert metrics['coco/segm_mAP'] == pytest.approx(evaluation.stats[0], abs=1e-6)
    assert metrics['coco/segm_mAP_50'] == pytest.approx(evaluation.stats[1], abs=1e-6)
