import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.tool import run_tool

TOOL = Path(__file__).parents[2] / 'tools/misc/split_coco.py'


@pytest.fixture
def ann_file(tmp_path) -> Path:
    """Twenty images in no order of id; image 1 has no object, image 2 but a crowd, image 3 an object and a crowd."""
    ids = np.random.default_rng(0).permutation(np.arange(1, 21)).tolist()
    images = [dict(id=i, file_name=f'{i}.png', width=9, height=9) for i in ids]
    objects = [(2, 1), (3, 0), (3, 1), *((i, 0) for i in range(4, 21))]
    annotations = [
        dict(
            id=n,
            image_id=image,
            category_id=1,
            bbox=[1, 1, 3, 3],
            area=9,
            iscrowd=crowd,
            segmentation=[[1, 1, 4, 1, 4, 4]],
        )
        for n, (image, crowd) in enumerate(objects, 1)
    ]
    path = tmp_path / 'objects.json'
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='a')])
    path.write_text(json.dumps(content))
    return path


def run(*arguments) -> subprocess.CompletedProcess:
    return run_tool(TOOL, *arguments)


def ids(path: Path) -> list:
    return [image['id'] for image in json.loads(path.read_text())['images']]


def test_folds_are_those_of_mmdetection(ann_file, tmp_path):
    result = run(ann_file, '--out-dir', tmp_path / 'out', '--percent', 10, 50, '--fold', 1, 2)
    assert result.returncode == 0, result.stderr
    order = ids(ann_file)
    for fold in (1, 2):
        np.random.seed(fold)
        drawn = set(np.random.choice(range(20), size=10).tolist())
        stem = tmp_path / f'out/objects.{fold}@50'
        assert ids(Path(f'{stem}.json')) == [order[i] for i in range(20) if i in drawn]
        assert ids(Path(f'{stem}-unlabeled.json')) == [order[i] for i in range(20) if i not in drawn]
        assert (tmp_path / f'out/objects.{fold}@10.json').exists()


def test_the_published_split_counts_images_with_objects_by_id(ann_file, tmp_path):
    positions = tmp_path / 'positions.txt'
    positions.write_text(json.dumps({'10.0': {'1': [1, 0]}}))
    result = run(ann_file, '--out', tmp_path, '--percent', 10, '--positions', positions)
    assert result.returncode == 0, result.stderr
    assert ids(tmp_path / 'objects.1@10.json') == [3, 4]
    assert ids(tmp_path / 'objects.1@10-unlabeled.json') == list(range(5, 21))
    labels = json.loads((tmp_path / 'objects.1@10.json').read_text())['annotations']
    assert [(label['image_id'], label['iscrowd']) for label in labels] == [(3, 0), (4, 0)]


@pytest.mark.parametrize(
    ('positions', 'message'),
    [
        ({'10.0': [18]}, '18 images with objects'),
        ({'1.0': [0]}, 'has no 10 %'),
        ({'10.0': {'2': [0]}}, 'no fold 1'),
        ([1], 'as a mapping of shares'),
        (None, 'does not exist: give the path of a published file, or leave --positions out'),
        ({'10.0': ['a']}, 'no list of whole numbers'),
    ],
)
def test_positions_that_do_not_fit_are_one_line(ann_file, tmp_path, positions, message):
    path = tmp_path / 'positions.json'
    if positions is not None:
        path.write_text(json.dumps(positions))
    result = run(ann_file, '--out', tmp_path, '--percent', 10, '--positions', path)
    assert result.returncode == 2
    assert message in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith('error')]) == 1


def test_an_entry_without_its_id_is_one_line(ann_file, tmp_path):
    content = json.loads(ann_file.read_text())
    del content['annotations'][3]['image_id']
    ann_file.write_text(json.dumps(content))
    result = run(ann_file, '--out', tmp_path / 'out', '--percent', 10)
    assert result.returncode == 2 and 'an entry of annotations has no usable image_id' in result.stderr
