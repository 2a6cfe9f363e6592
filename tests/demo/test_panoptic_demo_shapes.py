import json

import cv2
import numpy as np
import pytest
from demo_shapes import PanopticShapeScene, make_demo_shapes
from pycocotools.coco import COCO

from mmdet_sag.datasets.coco_instance_panoptic import read_segment_ids
from mmdet_sag.errors import InputError

NUM_TRAIN = 30


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    make_demo_shapes(folder / 'plain', NUM_TRAIN, 2)
    make_demo_shapes(folder / 'panoptic', NUM_TRAIN, 2, panoptic=True)
    return folder / 'plain', folder / 'panoptic'


@pytest.fixture(scope='module')
def panoptic(roots):
    return json.loads((roots[1] / 'annotations/panoptic_train2017.json').read_text())


def test_the_objects_are_those_of_the_plain_data_set_on_another_ground(roots):
    plain, panoptic = ((root / 'annotations/instances_train2017.json').read_text() for root in roots)
    assert plain == panoptic
    images = [cv2.imread(str(root / 'train2017/000001.jpg')) for root in roots]
    assert (images[0] != images[1]).any()


def test_the_plain_data_set_has_no_panoptic_files(roots):
    assert [path.name for path in sorted((roots[0] / 'annotations').iterdir())] == [
        'instances_train2017.json',
        'instances_val2017.json',
    ]


def test_segments_and_colours_agree_and_cover_the_image(roots, panoptic):
    assert len(panoptic['annotations']) == NUM_TRAIN
    for entry in panoptic['annotations']:
        ids = read_segment_ids(str(roots[1] / 'annotations/panoptic_train2017' / entry['file_name']))
        areas = dict(zip(*(values.tolist() for values in np.unique(ids, return_counts=True))))
        assert areas == {segment['id']: segment['area'] for segment in entry['segments_info']}


def test_things_come_first_and_every_stuff_class_is_used(panoptic):
    assert [category['isthing'] for category in panoptic['categories']] == [1] * 6 + [0] * 5
    assert tuple(c['name'] for c in panoptic['categories'][6:]) == PanopticShapeScene.stuff_classes
    used = {segment['category_id'] for entry in panoptic['annotations'] for segment in entry['segments_info']}
    assert used >= {category['id'] for category in panoptic['categories'][6:]}


def test_each_object_is_a_segment_at_its_place(roots, panoptic):
    coco = COCO(roots[1] / 'annotations/instances_train2017.json')
    things = {category['id'] for category in panoptic['categories'] if category['isthing']}
    for entry in panoptic['annotations']:
        ids = read_segment_ids(str(roots[1] / 'annotations/panoptic_train2017' / entry['file_name']))
        annotations = coco.imgToAnns[entry['image_id']]
        segments = [segment for segment in entry['segments_info'] if segment['category_id'] in things]
        assert sorted((a['category_id'], a['iscrowd']) for a in annotations) == sorted(
            (segment['category_id'], segment['iscrowd']) for segment in segments
        )
        for annotation in annotations:
            mask = coco.annToMask(annotation).astype(bool)
            overlaps = [
                ((ids == s['id']) & mask).sum() / ((ids == s['id']) | mask).sum()
                for s in segments
                if s['category_id'] == annotation['category_id'] and s['iscrowd'] == annotation['iscrowd']
            ]
            # A pixel belongs to the object that covers half of it; polygons are rasterised a little larger.
            assert max(overlaps) > 0.6


def test_the_kind_of_data_set_is_one_of_its_parameters(tmp_path):
    assert make_demo_shapes(tmp_path / 'demo', 2, 1, panoptic=True)
    assert not make_demo_shapes(tmp_path / 'demo', 2, 1, panoptic=True)
    assert make_demo_shapes(tmp_path / 'demo', 2, 1)
    assert not (tmp_path / 'demo/annotations/panoptic_train2017').exists()
    make_demo_shapes(tmp_path / 'demo', 2, 1, panoptic=True)
    (tmp_path / 'demo/annotations/panoptic_train2017/mine.png').touch()
    with pytest.raises(InputError, match=r'mine\.png'):
        make_demo_shapes(tmp_path / 'demo', 2, 1)
