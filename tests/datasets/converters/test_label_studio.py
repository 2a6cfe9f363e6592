"""Label Studio's JSON."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api
from support.label_exports import left_out

from mmdet_sag.datasets.converters import LabelConversion
from mmdet_sag.datasets.converters.label_studio import is_label_studio, read_label_studio
from mmdet_sag.datasets.converters.labelled_data import ReadOptions
from mmdet_sag.datasets.converters.source_files import NOT_LEARNT
from mmdet_sag.errors import InputError

# What the tool's own encoder gives for an image of 30x20 pixels and a rectangle with a hole.
BRUSH = [0, 0, 9, 96, 57, 27, 255, 2, 119, 0, 197, 255, 249, 28, 3, 23, 255, 228, 112, 12, 95, 255, 145, 192, 47, 255,
         219, 0, 194, 127, 249, 28, 2, 255, 253, 176, 12, 39, 255, 145, 192, 47, 255, 219, 0, 194, 127, 249, 28, 3, 23,
         255, 228, 112, 12, 95, 255, 145, 192, 49, 127, 254, 71, 0, 197, 255, 252, 9, 252, 0]  # fmt: skip


def result(kind, key='r1', turned=0, **value):
    return dict(
        id=key, type=kind, from_name='label', to_name='image', origin='manual', original_width=30, original_height=20,
        image_rotation=turned, value=value,
    )  # fmt: skip


RESULTS = [
    result('polygonlabels', 'p', points=[[10, 20], [50, 20], [50, 60]], closed=True, polygonlabels=['cat']),
    result('brushlabels', 'b', format='rle', rle=BRUSH, brushlabels=['dog']),
    result('rectanglelabels', 'r', x=10, y=50, width=40, height=20, rotation=0, rectanglelabels=['cat']),
    result('rectanglelabels', 't', x=50, y=10, width=20, height=60, rotation=90, rectanglelabels=['cat']),
    result('ellipselabels', 'e', x=50, y=50, radiusX=20, radiusY=10, rotation=0, ellipselabels=['cat']),
    # A brush and its class from two tags.
    result('brush', 'two', format='rle', rle=BRUSH),
    result('labels', 'two', format='rle', rle=BRUSH, labels=['bird']),
    result('keypointlabels', 'k', x=5, y=5, width=1, keypointlabels=['eye']),
    dict(id='c', type='choices', from_name='choice', to_name='image', value=dict(choices=['blurred'])),
    dict(type='relation', from_id='p', to_id='b', direction='right'),
]


def annotation(results, cancelled=False):
    return dict(id=1, completed_by=1, result=results, was_cancelled=cancelled, ground_truth=False)


def task(*annotations, image='/data/upload/1/8f3ab21c-a.png', **more):
    return dict(id=1, annotations=list(annotations), file_upload='8f3ab21c-a.png', data=dict(image=image), **more)


def put(root, *tasks, names=('a.png',), text=None):
    root.mkdir(exist_ok=True)
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        Image.new('RGB', (30, 20)).save(root / name)
    (root / 'project-1-at-2024-05-02.json').write_text(text or json.dumps(tasks))
    return root


def read(root, **options):
    assert is_label_studio(root)
    return read_label_studio(root, ReadOptions(**options))


def test_regions_of_all_kinds_become_objects(tmp_path):
    data = read(put(tmp_path / 'in', task(annotation(RESULTS))))
    (image,) = data.images
    polygon, brush, rectangle, turned, ellipse, two = image.objects
    assert (polygon.name, polygon.segmentation) == ('cat', [[3, 4, 15, 4, 15, 12]])
    expected = np.zeros((20, 30), bool)
    expected[5:15, 8:20], expected[8:11, 12:15] = True, False
    for item, name in ((brush, 'dog'), (two, 'bird')):
        assert item.name == name
        np.testing.assert_array_equal(mask_api.decode(item.segmentation), expected)
    assert rectangle.segmentation == [[3, 10, 15, 10, 15, 14, 3, 14]]
    # Turned clockwise about its first corner, (15, 2).
    assert turned.segmentation == [[15, 2, 15, 8, 3, 8, 3, 2]]
    points = np.reshape(ellipse.segmentation[0], (-1, 2))
    np.testing.assert_allclose([points.min(0), points.max(0)], [(9, 8), (21, 12)])
    assert left_out(data) == {
        NOT_LEARNT: ["region 'k' of '/data/upload/1/a.png': regions without area, such as key points"]
    }


@pytest.mark.parametrize(
    ('address', 'name'),
    [
        ('/data/upload/1/8f3ab21c-a.png', '8f3ab21c-a.png'),
        ('/data/local-files/?d=photos/my%20a.png', 'my a.png'),
        ('s3://bucket/photos/a.png', 'a.png'),
        ('https://host/photos/a.png?token=1', 'a.png'),
        ('C:\\photos\\a.png', 'a.png'),
    ],
)
def test_images_are_found_by_the_end_of_their_address(address, name, tmp_path):
    data = read(put(tmp_path / 'in', task(annotation(RESULTS), image=address), names=(name,)))
    assert [image.name for image in data.images] == [name]


def test_skipped_tasks_and_earlier_annotations_are_left_out(tmp_path):
    tasks = (
        task(annotation(RESULTS), annotation(RESULTS[:2]), annotation(RESULTS, True)),
        task(annotation([]), image='b.png'),
        task(image='c.png'),
    )
    data = read(put(tmp_path / 'in', *tasks, names=('a.png', 'b.png', 'c.png')))
    assert [(image.name, len(image.objects)) for image in data.images] == [('a.png', 2), ('b.png', 0)]
    assert [error.reason for error in data.left_out[NOT_LEARNT]] == [
        "tasks' earlier annotations",
        'images without labels',
    ]


@pytest.mark.parametrize(
    'broken',
    [
        result('brushlabels', rle=BRUSH[:20], brushlabels=['x']),
        result('brushlabels', rle=[0, 0, 1] + BRUSH[3:], brushlabels=['x']),
        result('brushlabels', rle=['a'], brushlabels=['x']),
        result('polygonlabels', points=[[1, 1], [2, 2]], polygonlabels=['x']),
        result('polygonlabels', points={}, polygonlabels=['x']),
        result('rectanglelabels', x=1, y=None, width=2, height=3, rectanglelabels=['x']),
        result('rectanglelabels', turned=90, x=1, y=1, width=2, height=3, rectanglelabels=['x']),
        result('polygon', points=[[1, 1], [2, 2], [2, 1]]),
    ],
)
def test_a_broken_region_is_left_out(broken, tmp_path):
    data = read(put(tmp_path / 'in', task(annotation([broken, dict(RESULTS[0], id='ok')]))))
    assert len(data.images[0].objects) == 1
    assert {kind: len(errors) for kind, errors in data.left_out.items()} == dict(objects=1)


def test_a_cut_file_and_missing_images_are_named(tmp_path):
    text = json.dumps([task(annotation(RESULTS))])
    with pytest.raises(InputError, match='export it again'):
        read(put(tmp_path / 'in', text=text[:500]))
    with pytest.raises(InputError, match='--images DIR'):
        read(put(tmp_path / 'other', text=text, names=()))


def test_a_file_is_recognised_as_its_folder_is(tmp_path):
    put(tmp_path / 'in', task(annotation(RESULTS)))
    conversion = LabelConversion([tmp_path / 'in/project-1-at-2024-05-02.json'])
    conversion.read()
    assert len(conversion.images[0].objects) == 6
