"""The C++ program prints what the runtime finds."""

import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.small_graph import write_openvino, write_prepared

from mmdet_sag.deployment import runtime

SOURCE = Path(__file__).parents[3] / 'demo/serving/cpp'
HEADERS = [Path('/usr/include', name) for name in ('opencv4/opencv2/imgproc.hpp', 'nlohmann/json.hpp')]

openvino = pytest.importorskip('openvino')
for package in ('onnx', 'onnxscript'):
    pytest.importorskip(package)
OPENVINO = Path(openvino.__file__).parent / 'cmake'
pytestmark = pytest.mark.skipif(
    not all([shutil.which('cmake'), shutil.which('g++'), OPENVINO.is_dir(), *(path.is_file() for path in HEADERS)]),
    reason='CMake, g++, or the headers of OpenVINO, OpenCV or nlohmann-json are not installed',
)


@pytest.fixture(scope='module')
def program(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('build')
    configure = ['cmake', '-S', SOURCE, '-B', folder, f'-DOpenVINO_DIR={OPENVINO}', '-DCMAKE_BUILD_TYPE=Debug']
    for command in (configure, ['cmake', '--build', folder]):
        result = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, result.stdout + result.stderr
    return folder / 'segment'


@pytest.mark.parametrize(
    'settings, shape',
    [
        (dict(backend='pillow'), (160, 120)),
        (dict(backend='cv2', inclusive_boxes=True, precision='int8'), (70, 90)),
        (dict(write=write_prepared), (120, 70)),
    ],
    ids=['pillow', 'inclusive', 'prepares images'],
)
def test_it_finds_the_same(program, tmp_path, settings, shape):
    write_openvino(tmp_path / 'exported', **settings)
    # OpenCV's versions differ by a level of an image's 255.
    exact = settings.get('backend') != 'cv2'
    generator = np.random.default_rng(0)
    image = cv2.resize(generator.integers(0, 256, (7, 7, 3), dtype=np.uint8), shape[::-1])
    cv2.imwrite(str(tmp_path / 'picture.png'), image)
    model = tmp_path / 'exported/model.xml'
    command = [program, model, tmp_path / 'picture.png', tmp_path / 'drawn.png', '0']
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, '')
    lines = [line.split('\t') for line in result.stdout.splitlines()]
    predictor = runtime.Predictor(model)
    expected = predictor(image)
    assert [line[0] for line in lines] == ['green', 'blue', 'green']
    numbers = np.array([line[1:] for line in lines], float)
    np.testing.assert_allclose(numbers[:, 0], expected['scores'], atol=1e-6 if exact else 1e-3)
    np.testing.assert_allclose(numbers[:, 1:5], expected['boxes'], atol=1e-3)
    areas = np.array([runtime.decode_mask(mask).sum() for mask in expected['masks']])
    assert areas.min() > 20
    np.testing.assert_allclose(numbers[:, 5], areas, atol=1 if exact else 20)
    drawn = cv2.imread(str(tmp_path / 'drawn.png'))
    changed = (drawn != image).any(axis=2)
    assert changed[runtime.decode_mask(expected['masks'][0])].mean() > 0.99


def test_what_it_cannot_read_is_one_error(program, tmp_path):
    result = subprocess.run([program, tmp_path / 'model.xml', __file__], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == f'error: {__file__}: is no image, damaged or missing'


def test_of_a_panoptic_model_it_finds_the_instances_and_says_so(program, tmp_path):
    write_openvino(tmp_path / 'exported', runtime_version=2, panoptic=dict(num_things=2))
    cv2.imwrite(str(tmp_path / 'picture.png'), np.zeros((80, 80, 3), np.uint8))
    command = [program, tmp_path / 'exported/model.xml', tmp_path / 'picture.png']
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, len(result.stdout.splitlines())) == (0, 2)
    assert result.stderr.startswith('of this panoptic model, only the instances are found; runtime.py merges')
