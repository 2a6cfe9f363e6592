import json
from pathlib import Path

import pytest
import yaml
from demo_shapes import make_demo_shapes
from support.tool import run_tool

ROOT = Path(__file__).resolve().parents[2]
NAME = 'centermask-lite_demo-14k'


def test_the_weights_reach_on_the_held_out_images_what_their_metafile_says(tmp_path):
    data_root = tmp_path / 'data'
    make_demo_shapes(data_root, num_train=1)
    config = ROOT / f'configs/centermask_lite/{NAME}.py'
    options = [
        f'test_dataloader.dataset.data_root={data_root}/',
        f'test_evaluator.ann_file={data_root}/annotations/instances_val2017.json',
    ]
    arguments = (config, config.with_suffix('.pth'), '--work-dir', tmp_path / 'work', '--cfg-options', *options)
    process = run_tool(ROOT / 'tools/test.py', *arguments)
    assert process.returncode == 0, process.stdout + process.stderr
    (metrics_file,) = (tmp_path / 'work').glob('*/*.json')
    measured = json.loads(metrics_file.read_text())
    models = yaml.safe_load(config.with_name('metafile.yml').read_text())['Models']
    (results,) = (model['Results'] for model in models if model['Name'] == NAME)
    stated = {name: value for result in results for name, value in result['Metrics'].items()}
    # Rounding differs between processors.
    assert measured['coco/bbox_mAP'] * 100 == pytest.approx(stated['box AP'], abs=0.3)
    assert measured['coco/segm_mAP'] * 100 == pytest.approx(stated['mask AP'], abs=0.3)
    assert stated['mask AP'] >= 70
