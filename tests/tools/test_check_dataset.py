"""``check_dataset.py`` and the refusals of the other tools, as processes."""

import json
import math
from pathlib import Path

import pytest
from support.tiny_data_set import TinyDataSet
from support.tool import run_tool

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path):
    return TinyDataSet(tmp_path / 'tiny data')


def run(tool, *arguments):
    """Runs a tool from a folder that is not the repository's."""
    return run_tool(ROOT / 'tools' / tool, *arguments, cwd=arguments[0].parent)


def assert_one_line(finished, *parts):
    errors = [line for line in finished.stderr.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1, finished.stderr
    assert all(part in errors[0] for part in parts), errors[0]
    assert 'Traceback' not in finished.stderr
    assert finished.returncode == 2


def test_a_broken_data_set_is_listed_and_its_repaired_copy_passes(data):
    data.annotation['segmentation'] = [[1, 2, 9, 2, 9, math.nan]]
    data.content['annotations'][1].update(bbox=[1, 1, 0, 0])
    (data.image_folder / '3.png').write_text('text')
    data.write()
    before = data.ann_file.read_bytes()
    config = data.write_config()
    out, fixed = data.root / 'found.json', data.root / 'fixed.json'

    finished = run('misc/check_dataset.py', config, '--json', out, '--fix', fixed, '--workers', 2)
    assert finished.returncode == 1, finished.stderr
    assert 'polygons with NaN' in finished.stdout
    assert 'annotation 1 ' in finished.stdout
    assert '3.png' in finished.stdout
    assert f'written: {fixed}, 2 images, 3 annotations' in finished.stdout
    assert 'images: 100%' in finished.stderr
    found = json.loads(out.read_text())
    assert not found['clean']
    assert [(p['kind'], p['count']) for p in found['data_sets'][0]['problems']] == [
        ('undecodable-image', 1),
        ('empty-box', 1),
        ('non-finite-polygon', 1),
    ]
    assert data.ann_file.read_bytes() == before

    option = 'train_dataloader.dataset.ann_file=fixed.json'
    finished = run('misc/check_dataset.py', config, '--splits', 'train', '--cfg-options', option)
    assert finished.returncode == 0, finished.stderr
    assert 'nothing found' in finished.stdout


def test_a_folder_without_a_config_is_checked_and_repaired(data):
    data.annotation['segmentation'] = [[1, 2, 9, 2, 9, math.nan]]
    data.write()
    finished = run('misc/check_dataset.py', data.root, '--fix', data.root / 'fixed.json')
    assert finished.returncode == 1, finished.stderr
    assert 'polygons with NaN' in finished.stdout
    assert '3 images, 6 annotations' in finished.stdout
    assert run('misc/check_dataset.py', data.root / 'fixed.json').returncode == 0


def test_objects_of_a_folder_that_have_boxes_alone_are_judged_and_repaired_as_boxes(data):
    for annotation in data.content['annotations']:
        annotation['segmentation'] = []
    data.annotation['bbox'] = [-5, 6, 20, 16]
    data.write()
    finished = run('misc/check_dataset.py', data.root, '--fix', data.root / 'fixed.json')
    assert finished.returncode == 1, finished.stderr
    assert '7 annotations (boxes alone)' in finished.stdout and 'without a mask' not in finished.stdout
    assert '3 images, 7 annotations' in finished.stdout
    assert run('misc/check_dataset.py', data.root / 'fixed.json').returncode == 0


def test_a_repair_that_leaves_nothing_is_refused(data):
    for annotation in data.content['annotations']:
        annotation['category_id'] = 99
    data.write()
    fixed = data.root / 'fixed.json'
    finished = run('misc/check_dataset.py', data.write_config(), '--fix', fixed)
    assert 'large share' in finished.stdout
    assert finished.returncode == 2
    assert '--fix would leave none of the 7 annotations' in finished.stderr
    assert not fixed.exists()


def test_a_data_set_that_cannot_be_checked_is_refused(data):
    config = data.write_config()
    data.ann_file.write_text('{"images": [')
    assert_one_line(run('misc/check_dataset.py', config), 'is not valid JSON', 'copy or export it again')


def test_training_stops_before_it_starts_on_data_that_would_hang_it(data):
    data.annotation['segmentation'] = [[1, 2, 9, 2, 9, math.nan]]
    data.write()
    finished = run('train.py', data.write_config())
    assert_one_line(finished, 'polygons with NaN', 'annotation 1', 'mmdet-sag check-data', '--fix')
    assert not (data.root / 'work_dirs').exists()


def test_training_on_polygons_stops_before_it_loses_an_object_given_as_rle(data):
    data.train_set.pipeline[1].poly2mask = False
    data.annotation['segmentation'] = dict(size=[48, 64], counts=[480, 384, 2208])
    data.write()
    option = 'train_dataloader.dataset.pipeline.1.poly2mask=True'
    finished = run('train.py', data.write_config())
    assert_one_line(finished, '1 objects whose mask is an RLE', 'annotation 1', f'set --cfg-options {option}')


def test_testing_stops_on_a_truncated_checkpoint(data):
    checkpoint = data.root / 'weights.pth'
    checkpoint.write_bytes(b'PK\x03\x04' + bytes(1000))
    assert_one_line(run('test.py', data.write_config(), checkpoint), 'weights.pth')


def test_a_foreign_checkpoint_that_is_none_is_refused(data):
    source = data.root / 'model.pkl'
    source.write_text('<html>404</html>')
    assert_one_line(run('model_converters/centermask2_to_mmdet.py', source, data.root / 'out.pth'), 'model.pkl')
