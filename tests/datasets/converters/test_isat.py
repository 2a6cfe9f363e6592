"""ISAT's JSON files."""

import json

from PIL import Image
from support.label_exports import left_out

from mmdet_sag.datasets.converters.json_per_image import is_isat, read_isat
from mmdet_sag.datasets.converters.labelled_data import ReadOptions
from mmdet_sag.datasets.converters.source_files import NOT_LEARNT


def item(points, category='cat', group=1):
    return dict(
        category=category, group=group, segmentation=points, area=50.0, layer=1.0, bbox=[0, 0, 9, 9], iscrowd=False,
        note='',
    )  # fmt: skip


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


def test_a_broken_polygon_is_left_out(tmp_path):
    for number, bad in enumerate([item(TRIANGLE[:2]), item('x'), item(TRIANGLE, category=None), item([[1, 2], [3]])]):
        data = read_isat(put(tmp_path / str(number), [bad, item(FAR, group=2)]), ReadOptions())
        assert len(data.images[0].objects) == 1
        assert list(left_out(data)) == ['objects']
