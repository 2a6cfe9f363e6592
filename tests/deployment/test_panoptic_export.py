"""An exported panoptic model and its runtime segment images as PyTorch's model does."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from support.tiny_export import FEW_LAYERS, make_lively, run_here
from support.tiny_panoptic import NUM_STUFF, NUM_THINGS, shapes_config, write_shapes

from mmdet_sag.apis.image_predictor import ImagePredictor
from mmdet_sag.datasets.data_sources import config_images
from mmdet_sag.deployment import model_export, runtime
from mmdet_sag.deployment.comparison import compare
from mmdet_sag.deployment.formats import OnnxFormat, load_predictor
from mmdet_sag.errors import InputError

for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino'):
    pytest.importorskip(package, reason=f'exports need {package}')


def write_tiny(folder: Path) -> tuple[Path, Path]:
    """Write data, the config of a tiny panoptic model and its checkpoint into a folder; paths of the latter two."""
    init_default_scope('mmdet')
    write_shapes(folder / 'data')
    config = shapes_config(folder / 'data')
    few = {**FEW_LAYERS, 'bbox_head.strides': [4, 8, 16, 32], 'roi_head.mask_iou_head.num_convs': 1}
    config.merge_from_dict({f'model.{key}': value for key, value in few.items()})
    config.model.test_cfg.bbox_head.max_per_img = 12
    # Some of them.
    config.model.test_cfg.panoptic.score_thr = 0.7275
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    make_lively(model)
    torch.nn.init.normal_(model.semantic_head.conv_logits.weight, std=0.5)
    # Stuff everywhere.
    model.semantic_head.conv_logits.bias.data[-1] = -9
    torch.save(dict(state_dict=model.state_dict()), folder / 'tiny.pth')
    config.dump(folder / 'tiny.py')
    return folder / 'tiny.py', folder / 'tiny.pth'


def test_panoptic_models_are_exported(monkeypatch, capsys, tmp_path):
    config, checkpoint = write_tiny(tmp_path)
    arguments = [config, checkpoint, '--images', 3, '--runs', 1]
    # What the export to OpenVINO reads.
    write = OnnxFormat.write

    def write_and_keep(self, graph, path: Path, *rest):
        write(self, graph, path, *rest)
        shutil.copy(path, tmp_path / 'model.onnx')

    monkeypatch.setattr(OnnxFormat, 'write', write_and_keep)
    for name in ('openvino', 'torchscript'):
        export = 'deployment/export.py'
        assert run_here(monkeypatch, export, *arguments, '--format', name, '--out', tmp_path / name) == 0
        report = json.loads((tmp_path / name / 'report.json').read_text())
        assert report['agreement']['num_found'] == report['agreement']['num_detections'] > 10
        assert report['metadata']['runtime_version'] == 2 and report['metadata']['panoptic']['stride'] == 4

    cfg = Config.fromfile(config)
    detector = model_export.build_detector(cfg, str(checkpoint))
    places = [tmp_path / 'model.onnx', tmp_path / 'openvino', tmp_path / 'torchscript']
    models = [load_predictor(str(path), num_threads=1) for path in places]
    numbers, labels = set(), set()
    for batch in config_images(cfg, 3):
        with torch.inference_mode():
            sample = detector.test_step(batch)[0]
        expected = sample.pred_panoptic_seg.sem_seg[0].numpy()
        numbers |= {*np.unique(expected // 1000)}
        labels |= {*np.unique(expected % 1000)}
        for model in models:
            found = model(sample.img_path)['panoptic']
            assert found.shape == expected.shape and found.dtype == np.int32
            assert (found != expected).mean() < 2e-3
    # Things, stuff, and several of the former.
    assert len(numbers) > 3 and min(labels) < NUM_THINGS < max(labels) <= NUM_THINGS + NUM_STUFF

    monkeypatch.chdir(tmp_path)
    assert runtime.run(['openvino', 'data/val2017', '--out', 'results']) == 0
    picture = next((tmp_path / 'data/val2017').glob('*.jpg'))
    png = cv2.imread(f'results/{picture.name}.panoptic.png').astype(int) @ [65536, 256, 1]
    found = models[1](picture)['panoptic']
    np.testing.assert_array_equal(png, np.where(found % 1000 < NUM_THINGS + NUM_STUFF, found, 0))
    # In the tools that take exported models.
    predictor = ImagePredictor('openvino')
    (sample,) = predictor.predict([cv2.imread(str(picture))])
    np.testing.assert_array_equal(sample.pred_panoptic_seg.sem_seg[0], found)
    assert run_here(monkeypatch, '../demo/image_demo.py', picture, 'openvino', '--out', 'out') == 0
    np.testing.assert_array_equal(cv2.imread(f'out/preds/{picture.stem}_panoptic_seg.png') @ [65536, 256, 1], png)
    assert run_here(monkeypatch, 'test.py', config, 'openvino', '--work-dir', 'test') == 0
    (scores,) = tmp_path.glob('test/*/*.json')
    assert {'coco/segm_mAP', 'coco_panoptic/PQ'} <= json.loads(scores.read_text()).keys()

    # The merging is compared too.
    models[2].metadata['panoptic']['score_thr'] = 0.9
    with pytest.raises(InputError, match="disagrees with PyTorch's"):
        compare(detector, models[2], config_images(cfg, 2), 'fp32')

    assert run_here(monkeypatch, export, *arguments, '--detections', 5, '--out', 'none') == 2
    assert '--detections: panoptic models are exported without it, leave it out' in capsys.readouterr().err


def test_segments_are_merged_by_score_and_small_stuff_is_dropped():
    metadata = dict(
        classes=['a', 'b', 'grass', 'sky'],
        panoptic=dict(num_things=2, stride=1, score_thr=0.5, mask_overlap=0.5, stuff_area_limit=5),
    )
    masks = np.zeros((4, 6, 8), np.float32)
    # The second is covered by the first to 1/4, the third by both wholly; the fourth scores too little.
    masks[0, :, :3], masks[1, :, 2:6], masks[2, :3, 1:4], masks[3] = 1, 1, 1, 1
    box = np.float32([0, 0, 8, 6])
    encoded = [runtime.encode_mask(mask, box, 6, 8, 0.5) for mask in masks]
    result = dict(masks=encoded, scores=np.array([0.9, 0.8, 0.7, 0.4]), labels=np.array([1, 0, 0, 0]))
    # Grass and a column of sky. Four pixels of the sky are visible, and two of things that were not found.
    logits = np.zeros((3, 6, 8), np.float32)
    logits[0], logits[1, :4, 7], logits[2, 4:, 7] = 1, 2, 2
    expected = np.full((6, 8), 2)
    expected[:, :3], expected[:, 3:6] = 1001, 2000
    expected[:, 7] = 4
    np.testing.assert_array_equal(runtime.merge_panoptic(logits, result, (6, 8), (6, 8), metadata), expected)
