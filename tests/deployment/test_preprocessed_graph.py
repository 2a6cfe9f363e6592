"""A model that resizes and normalizes images itself finds what PyTorch finds, in every format."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from support.tiny_export import run_here, write_tiny

from mmdet_sag.datasets.data_sources import config_images
from mmdet_sag.deployment.comparison import BOUNDS
from mmdet_sag.deployment.exported_detector import ExportedDetector
from mmdet_sag.deployment.formats import OnnxFormat
from mmdet_sag.deployment.graphs.preprocessed_graph import PreprocessedGraph
from mmdet_sag.deployment.runtime import Predictor

SIZES = (96, 128), (200, 60), (31, 97), (192, 256), (480, 640)


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_images_are_prepared_as_by_the_runtime(backend, device):
    predictor = Predictor.__new__(Predictor)
    settings = dict(mean=[100.0, 110.0, 120.0], std=[1.0, 2.0, 50.0], bgr_to_rgb=True, pad_value=-3.0)
    settings.update(resize=dict(mode='fit', scale=[128, 96], backend=backend), pad_size_divisor=32)
    predictor.metadata = dict(preprocessing=settings)
    graph = PreprocessedGraph(torch.nn.Identity(), settings, (96, 128)).to(device)
    generator = np.random.default_rng(0)
    for size in SIZES:
        image = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        (expected,), expected_sizes = predictor.prepare([image])
        inputs, sizes = (part.cpu() for part in graph.prepare(torch.from_numpy(np.stack([image, image])).to(device)))
        assert inputs.shape == (2, 3, 96, 128) and sizes.tolist() == [expected_sizes[0].tolist()] * 2
        height, width = expected_sizes[0]
        difference = (inputs[1, :, :height, :width].numpy() - expected[:, :height, :width]).transpose(1, 2, 0)
        assert np.abs(difference * settings['std']).max() <= 1.01
        assert (inputs[:, :, height:] == -3).all() and (inputs[:, :, :, width:] == -3).all()


def test_it_is_exported_to_every_format(monkeypatch, capsys, tmp_path):
    for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino'):
        pytest.importorskip(package, reason=f'exports need {package}')
    config, checkpoint = write_tiny(tmp_path)
    arguments = [config, checkpoint, '--images', 2, '--runs', 1, '--preprocessing']
    export = 'deployment/export.py'
    assert run_here(monkeypatch, export, *arguments, '--out', tmp_path / 'none') == 2
    assert '--preprocessing needs one size: give --input-size H W' in capsys.readouterr().err
    # What the export to OpenVINO reads.
    write = OnnxFormat.write

    def write_and_keep(self, graph, path: Path, *rest):
        write(self, graph, path, *rest)
        shutil.copy(path, tmp_path / 'model.onnx')

    monkeypatch.setattr(OnnxFormat, 'write', write_and_keep)
    arguments += ['--input-size', 96, 128, '--detections', 6]
    for name in ('openvino', 'torchscript'):
        assert run_here(monkeypatch, export, *arguments, '--format', name, '--out', tmp_path / name) == 0
        report = json.loads((tmp_path / name / 'report.json').read_text())
        assert report['agreement']['num_found'] == report['agreement']['num_detections'] > 10
        assert 0 < report['agreement']['inputs'] < 1.01
        assert report['metadata']['runtime_version'] == 2 and report['metadata']['preprocessing']['in_graph']

    models = [Predictor(path, num_threads=1) for path in (tmp_path / 'model.onnx', *(tmp_path.glob('*/model.*[lt]')))]
    assert len(models) == 3
    picture = cv2.imread(str(tmp_path / 'data/images/1.png'))
    for size in SIZES:
        expected, *others = (model([cv2.resize(picture, size), picture])[0] for model in models)
        assert len(expected['boxes']) > 2 and expected['boxes'][:, 2:].max() > 0.4 * min(size)
        for found in others:
            np.testing.assert_array_equal(found['labels'], expected['labels'])
            np.testing.assert_allclose(found['boxes'], expected['boxes'], atol=5 * BOUNDS['boxes'])
            np.testing.assert_allclose(found['scores'], expected['scores'], atol=BOUNDS['scores'])

    # test.py evaluates it on the images of the files.
    detector = ExportedDetector(str(tmp_path / 'openvino'), Config.fromfile(config).model.data_preprocessor)
    for batch in config_images(Config.fromfile(config), 2):
        sample = detector.test_step(batch)[0]
        np.testing.assert_allclose(sample.pred_instances.bboxes, models[1](sample.img_path)['boxes'], atol=1e-3)
