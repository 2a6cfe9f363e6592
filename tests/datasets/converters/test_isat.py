"""ISAT's JSON files."""

import json

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api
from support.label_exports import left_out

from mmdet_sag.datasets.converters.json_per_image import is_isat, read_isat
from mmdet_sag.datasets.converters.labelled_data import ReadOptions
from mmdet_sag.datasets.converters.masks import merged
from mmdet_sag.datasets.converters.source_files import NOT_LEARNT


def item(points, category='cat', group=1, layer=1.0, iscrowd=False):
    return dict(
        category=category, group=group, segmentation=points, area=50.0, layer=layer, bbox=[0, 0, 9, 9],
        iscrowd=iscrowd, note='',
    )  # fmt: skip


def square(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def bitmap(found):
    return mask_api.decode(merged(found.segmentation, (30, 20)))


TRIANGLE, FAR = [[2, 3], [12, 3], [12, 13]], [[20, 3], [28, 3], [28, 13]]
OBJECTS = [item(TRIANGLE), item(FAR), item(FAR, group=2), item(TRIANGLE, 'dog', 3), item(FAR, '__background__', 4)]


def put(root, objects=OBJECTS, name='a'):
    root.mkdir(exist_ok=True)
    Image.new('RGB', (30, 20)).save(root / f'{name}.jpg')
    info = dict(description='ISAT', folder='C:/photos', name=f'{name}.jpg', width=30, height=20, depth=3, note='')
    (root / f'{name}.json').write_text(json.dumps(dict(info=info, objects=objects), indent=4))
    return root


def test_polygons_of_a_group_are_one_object(tmp_path):
    root = put(tmp_path / 'in')
    assert is_isat(root)
    data = read_isat(root, ReadOptions())
    assert [(found.name, len(found.segmentation)) for found in data.images[0].objects] == [
        ('cat', 2),
        ('cat', 1),
        ('dog', 1),
    ]
    assert data.images[0].objects[2].segmentation == [[2, 3, 12, 3, 12, 13]]
    assert list(left_out(data)) == [NOT_LEARNT]


def test_higher_layers_hide_lower_ones_and_the_background_makes_holes(tmp_path):
    objects = [
        # Listed before what it lies over.
        item(square(8, 4, 16, 18), 'dog', 2, layer=5.0),
        item(square(2, 2, 20, 16), 'cat', 1, layer=1.0),
        item(square(4, 4, 6, 6), '__background__', 9, layer=2.0),
        # A second piece of the cat, which lies over the dog.
        item(square(10, 10, 12, 12), 'cat', 1, layer=7.0),
        # Beside the cat, and under it.
        item(square(20, 2, 28, 16), 'cat', 3, layer=0.5),
        item(square(9, 5, 11, 7), 'dog', 4, layer=0.2),
        item(square(22, 4, 26, 8), 'crowd', 5, layer=9, iscrowd=True),
    ]
    data = read_isat(put(tmp_path / 'in', objects), ReadOptions())
    dog, cat, other, crowd = data.images[0].objects
    expected = np.zeros((20, 30), np.uint8)
    expected[2:16, 2:20] = 1
    expected[4:6, 4:6] = 0
    expected[4:18, 8:16] = 0
    expected[10:12, 10:12] = 1
    np.testing.assert_array_equal(bitmap(cat), expected)
    hidden = np.zeros((20, 30), np.uint8)
    hidden[4:18, 8:16] = 1
    hidden[10:12, 10:12] = 0
    np.testing.assert_array_equal(bitmap(dog), hidden)
    assert bitmap(other).sum() == 8 * 14 - 4 * 4
    assert (crowd.name, crowd.is_crowd, other.is_crowd) == ('crowd', True, False)
    # The background, and what nothing is seen of.
    assert len(left_out(data)[NOT_LEARNT]) == 2
    assert data.notes == [
        '3 polygons are partly hidden by others in higher layers, as ISAT shows them; for whole ones, '
        "give ISAT's export of COCO"
    ]


def test_polygons_of_one_layer_overlap(tmp_path):
    objects = [item(square(2, 2, 20, 16)), item(square(8, 4, 16, 18), group=2)]
    data = read_isat(put(tmp_path / 'in', objects), ReadOptions())
    assert [found.segmentation for found in data.images[0].objects] == [
        [[2, 2, 20, 2, 20, 16, 2, 16]],
        [[8, 4, 16, 4, 16, 18, 8, 18]],
    ]
    assert not data.notes


def test_a_broken_polygon_is_left_out(tmp_path):
    for number, bad in enumerate([item(TRIANGLE[:2]), item('x'), item(TRIANGLE, category=None), item([[1, 2], [3]])]):
        data = read_isat(put(tmp_path / str(number), [bad, item(FAR, group=2)]), ReadOptions())
        assert len(data.images[0].objects) == 1
        assert list(left_out(data)) == ['objects']
