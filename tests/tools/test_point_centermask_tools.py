"""CenterMask by points goes through the same tools as the other models."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from support.tiny_points import build_points, fcos_points_model, write_points
from support.tool import run_tool

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('points')
    write_points(folder)
    config = Config.fromfile(folder / 'tiny.py')
    crop = dict(
        type='RandomCenterCropPadWithMasks',
        crop_size=(64, 64),
        ratios=(0.8, 1.0),
        border=16,
        mean=[0, 0, 0],
        std=[1, 1, 1],
        to_rgb=True,
        test_pad_mode=None,
    )
    # As in the configs of COCO: colours, crop, size.
    load, annotations, _, colour, flip, pack = config.train_dataloader.dataset.pipeline
    resize = dict(type='Resize', scale=(64, 64), keep_ratio=True)
    config.train_dataloader.dataset.pipeline = [load, annotations, colour, crop, resize, flip, pack]
    config.train_cfg.update(max_iters=4, val_interval=4)
    config.load_from = str(folder / 'tiny.pth')
    config.dump(folder / 'train.py')
    return folder


def run(folder: Path, tool: str, *arguments: object) -> str:
    process = run_tool(ROOT / tool, *arguments, cwd=folder)
    assert process.returncode == 0, (process.stdout + process.stderr)[-3000:]
    return process.stdout + process.stderr


def test_it_is_trained_resumed_tested_and_shown(folder):
    run(folder, 'tools/train.py', 'train.py', '--work-dir', 'run', '--cfg-options', 'train_cfg.max_iters=2')
    said = run(folder, 'tools/train.py', 'train.py', '--work-dir', 'run', '--resume')
    assert 'segm_mAP' in said
    resumed = torch.load(folder / 'run/iter_4.pth', weights_only=False)
    assert resumed['meta']['iter'] == 4

    run(folder, 'tools/test.py', 'train.py', 'run/iter_4.pth', '--work-dir', 'tested')
    (scores,) = (folder / 'tested').glob('*/*.json')
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= json.loads(scores.read_text()).keys()

    shown = ('train.py', 'run/iter_4.pth', '--out-dir', 'shown', '--score-thr', 0.1)
    run(folder, 'demo/image_demo.py', 'data/images', *shown)
    assert len(json.loads((folder / 'shown/results.json').read_text())['annotations']) > 4

    run(folder, 'tools/analysis_tools/report.py', 'train.py', 'run/iter_4.pth', '--out', 'report.html')
    assert 'No attention maps: ' in (folder / 'report.html').read_text()


def test_the_variant_beside_fcos_is_trained_and_tested(folder):
    config = Config.fromfile(folder / 'train.py')
    config.model = fcos_points_model()
    config.load_from = str(folder / 'fcos.pth')
    config.dump(folder / 'fcos.py')
    model = build_points(fcos_points_model)
    torch.nn.init.zeros_(model.bbox_head.conv_cls.bias)
    torch.save(dict(state_dict=model.state_dict()), folder / 'fcos.pth')
    assert 'segm_mAP' in run(folder, 'tools/train.py', 'fcos.py', '--work-dir', 'fcos')
    options = ('train_dataloader.dataset.pipeline.1.with_mask=False',)
    process = run_tool(ROOT / 'tools/train.py', 'fcos.py', '--work-dir', 'no', '--cfg-options', *options, cwd=folder)
    assert process.returncode == 2
    assert 'loads no masks' in process.stderr


def test_data_without_masks_and_tta_are_refused_in_a_line(folder):
    option = 'train_dataloader.dataset.pipeline.1.with_mask=False'
    process = run_tool(ROOT / 'tools/train.py', 'train.py', '--work-dir', 'no', '--cfg-options', option, cwd=folder)
    assert process.returncode == 2
    assert 'loads no masks' in process.stderr
    process = run_tool(ROOT / 'tools/test.py', 'train.py', 'tiny.pth', '--work-dir', 'no', '--tta', cwd=folder)
    assert process.returncode == 2
    assert 'the masks of PointCenterMask cannot be merged' in process.stderr
