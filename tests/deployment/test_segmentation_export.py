"""Exported encoder-decoders of MMSegmentation and their runtime segment images as PyTorch's model does."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from support.tiny_export import run_here

from mmdet_sag.datasets.data_sources import config_images
from mmdet_sag.deployment import model_export, runtime
from mmdet_sag.deployment.formats import load_predictor
from mmdet_sag.deployment.semantic_comparison import compare_segmentation
from mmdet_sag.errors import InputError

for package in ('mmseg', 'onnx', 'onnxscript', 'onnxruntime', 'openvino'):
    pytest.importorskip(package, reason=f'exports of segmentors need {package}')
from support.tiny_vessels import CONFIGS, write_tiny_segmentor  # noqa: E402

EXPORT = 'deployment/export.py'
HALF = CONFIGS / 'sa-unet_cpu_chase-db1-half.py'


def predicted(config: Path, checkpoint: Path) -> dict[str, np.ndarray]:
    """PyTorch's labels by image file."""
    init_default_scope('mmseg')
    cfg = Config.fromfile(config)
    segmentor = model_export.build_detector(cfg, str(checkpoint))
    labels = {}
    for batch in config_images(cfg, 2):
        with torch.inference_mode():
            (sample,) = segmentor.test_step(batch)
        labels[sample.img_path] = sample.pred_sem_seg.data[0].numpy()
    return labels


@pytest.fixture(scope='module')
def halved(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Folder, config and checkpoint of a network of one channel, for images of half the size."""
    folder = tmp_path_factory.mktemp('halved')
    return folder, *write_tiny_segmentor(folder, HALF, **{'model.decode_head.threshold': 0.4})


def test_a_network_of_one_channel_is_exported_to_each_format(halved, monkeypatch, tmp_path):
    _, config, checkpoint = halved
    expected = predicted(config, checkpoint)
    assert all(0.05 < labels.mean() < 0.95 for labels in expected.values()) and len(expected) == 2
    for name in ('onnx', 'openvino', 'torchscript'):
        arguments = [config, checkpoint, '--format', name, '--out', tmp_path / name, '--runs', 1, '--ap']
        assert run_here(monkeypatch, EXPORT, *arguments) == 0
        report = json.loads((tmp_path / name / 'report.json').read_text())
        assert report['agreement']['num_images'] == 2 and report['agreement']['pixels'] < 1e-3
        assert report['metadata']['runtime_version'] == 3
        assert report['metadata']['classes'] == ['background', 'vessel']
        assert {*report['seconds']} == {'PyTorch', name}
        metrics = report['metrics']
        assert 0 < metrics['pytorch']['vessel/F1'] < 1 and len(metrics['pytorch']) == 12
        assert metrics['exported'] == pytest.approx(metrics['pytorch'], abs=1e-3)
        predictor = load_predictor(str(tmp_path / name), num_threads=1)
        for path, labels in expected.items():
            found = predictor(path)['semantic']
            assert found.dtype == np.int32 and (found != labels).mean() < 1e-3
        # A batch, with an image of another size.
        images = [cv2.imread(path) for path in expected] + [np.zeros((31, 45, 3), np.uint8)]
        found = predictor(images)
        assert [result['semantic'].shape for result in found] == [image.shape[:2] for image in images]
        assert [len(predictor(images[:2])), len(predictor([]))] == [2, 0]
    # The evaluator of test.py, on the exported model.
    assert run_here(monkeypatch, 'test.py', config, tmp_path / 'openvino', '--work-dir', tmp_path / 'test') == 0
    (scores,) = tmp_path.glob('test/*/*.json')
    assert json.loads(scores.read_text())['vessel/F1'] == pytest.approx(metrics['pytorch']['vessel/F1'], abs=1e-3)

    # The comparison covers the threshold.
    predictor.metadata['semantic']['threshold'] = 0.3
    cfg = Config.fromfile(config)
    segmentor = model_export.build_detector(cfg, str(checkpoint))
    with pytest.raises(InputError, match="disagrees with PyTorch's"):
        compare_segmentation(segmentor, predictor, config_images(cfg, 2), 'fp32')


def test_the_runtime_writes_labels_run_lengths_and_pictures(halved, monkeypatch, tmp_path, capsys):
    folder, config, checkpoint = halved
    arguments = [config, checkpoint, '--format', 'torchscript', '--images', 0]
    assert run_here(monkeypatch, EXPORT, *arguments, '--out', tmp_path / 'model') == 0
    pictures = folder / 'data/images/validation'
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert runtime.run(['model', str(pictures), '--out', 'results', '--batch-size', '2']) == 0
    lines = capsys.readouterr().out.splitlines()
    results = json.loads(Path('results/results.json').read_text())
    assert sorted(results) == ['validation_0.png', 'validation_1.png']
    for path, labels in predicted(config, checkpoint).items():
        name = Path(path).name
        written = cv2.imread(f'results/{name}.semantic.png', cv2.IMREAD_UNCHANGED)
        assert (written != labels).mean() < 1e-3
        masks = {part['name']: runtime.decode_mask(part['segmentation']) for part in results[name]}
        np.testing.assert_array_equal(masks['vessel'], written == 1)
        np.testing.assert_array_equal(masks['background'], written == 0)
        assert f'{path}: background {(written == 0).mean():.1%}, vessel {(written == 1).mean():.1%}' in lines
        # Background stays as it is, and vessels are half their colour.
        image, picture = cv2.imread(path), cv2.imread(f'results/{name}.png')
        zoom = picture.shape[0] // image.shape[0]
        picture, image = picture[zoom // 2 :: zoom, zoom // 2 :: zoom].astype(int), image.astype(int)
        assert picture[written == 1][:, 0].min() >= 230 // 2 > picture[written == 1][:, 2].max() - 128
        np.testing.assert_allclose(picture[written == 0].mean(), image[written == 0].mean(), atol=3)

    for options, what in (
        (['--score-thr', '0.5'], '--score-thr 0.5: model is a segmentor, without scores: leave it out'),
        (['--result-score-thr', '0.5'], 'leave a lowest score out'),
        (['--classes', 'vessel'], 'leave some classes alone out'),
    ):
        assert runtime.run(['model', str(pictures), '--out', 'none', *options]) == 2
        assert what in capsys.readouterr().err
    assert not Path('none').exists()
    with pytest.raises(runtime.RuntimeInputError, match='model.pt: is a segmentor: use SegmentationPredictor'):
        runtime.Predictor('model')


@pytest.mark.parametrize('align_corners', [False, True])
def test_a_network_of_several_channels_is_exported_in_the_size_of_the_images(align_corners, monkeypatch, tmp_path):
    data_set = dict(type='BaseSegDataset', img_suffix='.png', seg_map_suffix='_1stHO.png')
    data_set.update(metainfo=dict(classes=('background', 'vessel', 'other')), reduce_zero_label=False)
    # No multiple of 8 in one side, and a size that is neither the image's nor the network's.
    resize = dict(type='Resize', scale=(83, 51), keep_ratio=align_corners)
    pipeline = [dict(type='LoadImageFromFile'), *[resize] * align_corners, dict(type='PackSegInputs')]
    options = {f'test_dataloader.dataset.{key}': value for key, value in dict(data_set, pipeline=pipeline).items()}
    head = dict(num_classes=3, out_channels=None, threshold=None, align_corners=align_corners)
    options.update({f'model.decode_head.{key}': value for key, value in head.items()})
    config, checkpoint = write_tiny_segmentor(tmp_path, **options, **{'model.data_preprocessor.pad_val': 3})
    expected = predicted(config, checkpoint)
    assert {*np.unique(np.stack([*expected.values()]))} == {0, 1, 2}
    # Half precision is computed in float32 where the CPU cannot do better.
    for precision in ('fp32', 'bf16'):
        arguments = [config, checkpoint, '--format', 'torchscript', '--precision', precision, '--runs', 0]
        assert run_here(monkeypatch, EXPORT, *arguments, '--out', tmp_path / precision) == 0
    predictor = load_predictor(str(tmp_path / 'fp32'), num_threads=1)
    for path, labels in expected.items():
        assert (predictor(path)['semantic'] != labels).mean() < 1e-3


@pytest.mark.parametrize(
    ('options', 'cfg_options', 'message'),
    [
        (['--detections', 5], [], '--detections: segmentors are exported without it, leave it out'),
        (['--input-size', 64, 64], [], '--input-size: segmentors are exported without it, leave it out'),
        (
            ['--input-size', 64, 64, '--preprocessing'],
            [],
            '--preprocessing: segmentors are exported without it, leave it out',
        ),
        ([], ['model.test_cfg.mode=slide'], 'set --cfg-options model.test_cfg.mode=whole'),
        ([], ['model.data_preprocessor.test_cfg.size=(64,64)'], 'set size_divisor in its place'),
        (
            [],
            ['model.decode_head.num_classes=1'],
            'the model has 1 classes, but the data set of test_dataloader names 2',
        ),
    ],
)
def test_what_a_segmentor_cannot_have_is_refused_in_one_line(
    options, cfg_options, message, halved, monkeypatch, tmp_path, capsys
):
    _, config, checkpoint = halved
    arguments = [config, checkpoint, '--out', tmp_path / 'none', *options]
    assert run_here(monkeypatch, EXPORT, *arguments, *['--cfg-options', *cfg_options] * bool(cfg_options)) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / 'none').exists()
