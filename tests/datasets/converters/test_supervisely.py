"""Supervisely's JSON files."""

import base64
import io
import json
import zlib

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api
from support.label_exports import left_out
from test_instance_masks import two_regions

from mmdet_sag.datasets.converters.json_per_image import is_supervisely, read_supervisely
from mmdet_sag.datasets.converters.labelled_data import ReadOptions
from mmdet_sag.datasets.converters.source_files import NOT_LEARNT

MASK = two_regions(1, 1)[2:18, 2:25]


def bitmap(pixels=MASK, origin=(2, 2)):
    """As its SDK writes it: a palette picture whose first colour is transparent, compressed once more."""
    picture = Image.fromarray(pixels).convert('P')
    picture.putdata(pixels.ravel().tolist())
    picture.putpalette([0, 0, 0, 255, 255, 255])
    file = io.BytesIO()
    picture.save(file, 'PNG', transparency=0)
    return dict(data=base64.b64encode(zlib.compress(file.getvalue())).decode(), origin=list(origin))


def figure(kind, title='cat', exterior=(), interior=(), **more):
    points = dict(exterior=list(map(list, exterior)), interior=list(interior))
    return dict(id=1, classId=2, geometryType=kind, classTitle=title, labelerLogin='x', tags=[], points=points, **more)


SQUARE = [(2, 3), (12, 3), (12, 13), (2, 13)]
FIGURES = [
    figure('polygon', exterior=SQUARE),
    figure('polygon', exterior=SQUARE, interior=[[[5, 5], [9, 5], [9, 9], [5, 9]]]),
    dict(figure('bitmap', 'dog', bitmap=bitmap()), points=None),
    figure('rectangle', exterior=[(4, 6), (14, 10)]),
    figure('point', exterior=[(1, 1)]),
]


def put(root, figures=FIGURES, name='a', data_set='train'):
    for folder in ('ann', 'img'):
        (root / data_set / folder).mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (30, 20)).save(root / f'{data_set}/img/{name}.jpg')
    content = dict(description='', tags=[], size=dict(height=20, width=30), objects=figures)
    (root / f'{data_set}/ann/{name}.jpg.json').write_text(json.dumps(content))
    (root / 'meta.json').write_text(json.dumps(dict(classes=[dict(title='cat', shape='polygon')], tags=[])))
    return root


def test_figures_of_all_kinds_become_objects_and_holes_stay(tmp_path):
    root = put(put(tmp_path / 'in'), [], data_set='val')
    assert is_supervisely(root)
    data = read_supervisely(root, ReadOptions())
    assert [(image.split, len(image.objects)) for image in data.images] == [('train', 4), ('val', 0)]
    square, holed, brush, rectangle = data.images[0].objects
    assert (square.name, square.segmentation) == ('cat', [[2, 3, 12, 3, 12, 13, 2, 13]])
    area = mask_api.area(mask_api.merge(mask_api.frPyObjects(holed.segmentation, 20, 30)))
    assert area == 100 - 16
    expected = np.zeros((20, 30), np.uint8)
    expected[2:18, 2:25] = MASK
    np.testing.assert_array_equal(mask_api.decode(brush.segmentation), expected)
    assert (brush.name, rectangle.segmentation) == ('dog', [[4, 6, 14, 6, 14, 10, 4, 10]])
    assert {kind: len(places) for kind, places in left_out(data).items()} == {NOT_LEARNT: 1}


@pytest.mark.parametrize(
    'bad',
    [
        figure('polygon', exterior=SQUARE[:2]),
        figure('polygon', exterior=SQUARE, interior=[[[5, 5]]]),
        figure('rectangle', exterior=SQUARE),
        figure('bitmap', bitmap=bitmap(origin=(20, 2))),
        figure('bitmap', bitmap=dict(data='x', origin=[1, 1])),
        figure('bitmap', bitmap=dict(bitmap(), origin=None)),
        figure('star'),
        figure('polygon', None, SQUARE),
    ],
)
def test_a_broken_figure_is_left_out(bad, tmp_path):
    data = read_supervisely(put(tmp_path / 'in', [bad, FIGURES[0]]), ReadOptions())
    assert len(data.images[0].objects) == 1
    assert list(left_out(data)) == ['objects']
