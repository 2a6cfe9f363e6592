"""All configs of this package can be exported."""

from pathlib import Path

import pytest
import torch
from mmdet.models.detectors import SemiBaseDetector
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet_sag.deployment.graphs import build_graph
from mmdet_sag.deployment.metadata import describe
from mmdet_sag.deployment.model_export import num_classes_of
from mmdet_sag.deployment.runtime import resized_size

CONFIGS = Path(__file__).parents[2] / 'configs'
PATHS = sorted(path for path in CONFIGS.glob('*/*.py') if path.parent.name != '_base_')


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
def test_config_has_a_graph_and_metadata(path, tmp_path):
    if path.parent.name == 'sa_unet':
        pytest.importorskip('mmseg')
    config = Config.fromfile(path)
    init_default_scope(config.get('default_scope', 'mmdet'))
    if config.model.get('backbone', {}).get('type') == 'TIMMBackbone':
        pytest.importorskip('timm')
    checkpoint = tmp_path / 'checkpoint.pth'
    checkpoint.touch()
    # Shapes without numbers: the large models take no memory, and no time.
    with torch.device('meta'):
        detector = MODELS.build(config.model)
        if isinstance(detector, SemiBaseDetector):
            detector = detector.teacher
        build_graph(detector)
    metadata = describe(config, str(checkpoint), 'onnx', 'fp32', num_classes_of(detector))
    assert len(metadata['classes']) == len(metadata['palette']) == num_classes_of(detector)
    assert metadata['model'] == type(detector).__name__
    assert min(resized_size(640, 480, metadata['preprocessing']['resize'])) >= 96
