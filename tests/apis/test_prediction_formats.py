import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.apis import DetInferencer
from support.tiny_checkpoint import write_tiny_checkpoint

from mmdet_sag.apis import to_supervision
from mmdet_sag.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def inferencer(tmp_path):
    write_tiny_checkpoint(tmp_path)
    return DetInferencer(str(tmp_path / 'config.py'), str(tmp_path / 'model.pth'), device='cpu', show_progress=False)


def test_three_lines_give_the_same_results_as_detections_of_supervision(inferencer, tmp_path):
    supervision = pytest.importorskip('supervision', reason='supervision is not installed (pip install supervision)')
    image = cv2.imread(str(tmp_path / 'data/images/1.png'))
    (sample,) = inferencer(image, return_datasamples=True)['predictions']
    detections = to_supervision(sample, inferencer.model.dataset_meta['classes'])
    (numbers,) = inferencer(image)['predictions']
    assert isinstance(detections, supervision.Detections)
    assert len(detections) == len(numbers['scores']) > 0
    np.testing.assert_allclose(detections.confidence, numbers['scores'], rtol=1e-6)
    np.testing.assert_allclose(detections.xyxy, numbers['bboxes'], rtol=1e-6)
    np.testing.assert_array_equal(detections.class_id, numbers['labels'])
    assert detections.mask.shape == (len(detections), *image.shape[:2]) and detections.mask.dtype == bool
    assert set(detections.data['class_name']) <= {'green', 'blue'}
    # What it is for: its own tools take them.
    chosen = detections[detections.confidence > np.median(detections.confidence)]
    assert 0 < len(chosen) < len(detections)
    assert (supervision.MaskAnnotator().annotate(image.copy(), chosen) != image).any()


def test_the_lines_of_the_page_run_as_they_stand(tmp_path, monkeypatch):
    pytest.importorskip('supervision', reason='supervision is not installed (pip install supervision)')
    write_tiny_checkpoint(tmp_path)
    shutil.copy(tmp_path / 'model.pth', tmp_path / 'iter_1600.pth')
    cv2.imwrite(str(tmp_path / 'image.jpg'), cv2.imread(str(tmp_path / 'data/images/1.png')))
    blocks = re.findall('```python\n(.*?)```', (ROOT / 'docs/after_training.md').read_text(), re.DOTALL)
    lines = [block for block in blocks if 'DetInferencer' in block or 'to_supervision' in block]
    assert len(lines) == 2
    monkeypatch.chdir(tmp_path)
    names = {}
    exec('\n'.join(lines), names)
    (found,) = names['predictions']
    np.testing.assert_allclose(names['detections'].xyxy, found['bboxes'], rtol=1e-6)
    assert len(names['detections']) > 0


def test_an_image_without_detections_gives_none(inferencer):
    pytest.importorskip('supervision', reason='supervision is not installed (pip install supervision)')
    (sample,) = inferencer(np.zeros((64, 64, 3), np.uint8), return_datasamples=True)['predictions']
    sample.pred_instances = sample.pred_instances[sample.pred_instances.scores > 2]
    assert len(to_supervision(sample, ('green', 'blue'))) == 0


def test_without_the_package_its_name_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, 'supervision', None)
    with pytest.raises(InputError, match=r"pip install 'mmdet_sag\[video\]'"):
        to_supervision(None)
