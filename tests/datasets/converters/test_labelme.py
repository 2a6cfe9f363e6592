"""Shapes of LabelMe."""

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api
from support.label_exports import left_out, sound

from mmdet_sag.datasets.converters.labelled_data import ReadOptions
from mmdet_sag.datasets.converters.labelme import is_labelme, read_labelme
from mmdet_sag.datasets.converters.source_files import NOT_LEARNT
from mmdet_sag.errors import InputError

SQUARE = [[2, 3], [12, 3], [12, 13], [2, 13]]


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'PNG')
    return file.getvalue()


def png_chunk(kind, data):
    data = kind.encode() + data
    return struct.pack('>I', len(data) - 4) + data + struct.pack('>I', zlib.crc32(data))


def put(root, *shapes, name='a', image=True, **content):
    root.mkdir(exist_ok=True)
    if image:
        Image.new('RGB', (40, 20)).save(root / f'{name}.png')
    content = dict(dict(imagePath=f'{name}.png', imageWidth=40, imageHeight=20, imageData=None), **content)
    (root / f'{name}.json').write_text(json.dumps(dict(content, shapes=shapes)), encoding='utf-8')
    return root


def shape(points=SQUARE, kind='polygon', label='insulator', **more):
    return dict(label=label, points=points, shape_type=kind, group_id=None, flags={}, **more)


def read(root, **options):
    assert is_labelme(root)
    return sound(read_labelme(root, ReadOptions(**options)))


def test_shapes_become_objects(tmp_path):
    rectangle, circle = shape([[30, 15], [20, 5]], 'rectangle'), shape([[20, 10], [25, 10]], 'circle', 'defect')
    data = read(put(tmp_path / 'in', shape(), rectangle, circle, shape([[1, 1]], 'point')))
    first, second, third = data.images[0].objects
    assert first.segmentation == [[2, 3, 12, 3, 12, 13, 2, 13]]
    assert second.segmentation == [[30, 15, 20, 15, 20, 5, 30, 5]]
    assert (third.name, len(third.segmentation[0])) == ('defect', 128)
    assert data.classes == ['defect', 'insulator']
    assert left_out(data) == {
        NOT_LEARNT: [f"'{tmp_path}/in/a.json', shape 3: shapes of type 'point', which has no area"]
    }


@pytest.mark.parametrize('kind', ['oriented_rectangle', 'rotation'])
def test_a_turned_rectangle_is_its_four_corners(kind, tmp_path):
    corners = [[10, 2], [18, 10], [10, 18], [2, 10]]
    # X-AnyLabeling's form of it.
    data = read(put(tmp_path / 'in', shape(corners, kind, direction=0.785, difficult=False)))
    assert data.images[0].objects[0].segmentation == [[10, 2, 18, 10, 10, 18, 2, 10]]


def test_shapes_of_a_group_are_one_object(tmp_path):
    far = [[20, 3], [30, 3], [30, 13]]
    one, two = dict(shape(), group_id=7), dict(shape(far), group_id=7)
    other = dict(shape(far, label='defect'), group_id=7)
    data = read(put(tmp_path / 'in', one, two, other, shape(), shape()))
    assert [len(item.segmentation) for item in data.images[0].objects] == [2, 1, 1, 1]


def test_a_mask_keeps_its_pixels_and_place(tmp_path):
    pixels = np.zeros((5, 6), np.uint8)
    pixels[1:4, 2:5] = 255
    mask = shape([[10, 8], [16, 13]], 'mask', mask=base64.b64encode(png(pixels)).decode())
    (item,) = read(put(tmp_path / 'in', mask)).images[0].objects
    expected = np.zeros((20, 40), bool)
    expected[9:12, 12:15] = True
    np.testing.assert_array_equal(mask_api.decode(item.segmentation), expected)


@pytest.mark.parametrize('chunk', ['IHDR', 'iCCP', 'zTXt'])
def test_a_mask_that_unpacks_into_gigabytes_is_named(chunk, tmp_path):
    data = png(np.full((5, 5), 255, np.uint8))
    if chunk == 'IHDR':
        bomb = data[:8] + png_chunk('IHDR', struct.pack('>IIBBBBB', 40000, 40000, 8, 0, 0, 0, 0)) + data[33:]
    else:
        bomb = data[:33] + png_chunk(chunk, b'name\0\0' + zlib.compress(bytes(2**27))) + data[33:]
    mask = shape([[2, 3], [6, 7]], 'mask', mask=base64.b64encode(bomb).decode())
    with pytest.raises(InputError, match='shape 0: its mask is not a picture'):
        read(put(tmp_path / 'in', mask))
    embedded = base64.b64encode(bomb).decode()
    with pytest.raises(InputError, match='cannot be read' + r'.*\d pixels' * (chunk == 'IHDR')):
        read(put(tmp_path / 'embedded', image=False, imagePath='none.png', imageData=embedded, name='b'))


def test_crowds_are_marked_by_a_flag(tmp_path):
    data = read(put(tmp_path / 'in', dict(shape(), flags=dict(crowd=True)), shape()))
    assert [item.is_crowd for item in data.images[0].objects] == [True, False]


def test_an_image_inside_the_file_is_taken_where_there_is_no_other(tmp_path):
    data_of_image = base64.b64encode(png(np.zeros((20, 40, 3), np.uint8))).decode()
    data = read(put(tmp_path / 'in', shape(), image=False, imagePath='C:\\photos\\a.png', imageData=data_of_image))
    (image,) = data.images
    assert (image.name, image.size) == ('a.png', (40, 20))
    assert image.content == base64.b64decode(data_of_image)


def test_images_nobody_labelled_are_left_out(tmp_path):
    root = put(tmp_path / 'in', shape())
    Image.new('RGB', (4, 4)).save(root / 'b.png')
    data = read(root)
    assert len(data.images) == 1
    assert left_out(data) == {NOT_LEARNT: [f"'{root}/b.png': images without a JSON file"]}


@pytest.mark.parametrize(
    ('bad', 'message'),
    [
        (shape(label=''), 'shape 0: has no label'),
        (shape([[1, 1], [2, 2]]), 'a polygon of 2 points'),
        (shape([[1, 1], [2, float('nan')], [5, 5]]), 'NaN or infinite'),
        (shape('abc'), 'not a list of'),
        (shape(kind='star'), "shapes of type 'star'"),
        (shape([[0, 0]], 'mask', mask='!'), 'not a picture'),
    ],
)
def test_a_broken_shape_is_named(bad, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read(put(tmp_path / 'in', bad))


def test_a_file_that_does_not_fit_its_image_is_named(tmp_path):
    with pytest.raises(InputError, match='40x20 pixels, but its labels are of 50x20'):
        read(put(tmp_path / 'in', shape(), imageWidth=50))
    with pytest.raises(InputError, match='names its classes: change the names with --rename'):
        read(tmp_path / 'in', class_names=['x'])
    with pytest.raises(InputError, match="neither there nor in the file .'b.png'"):
        read(put(tmp_path / 'other', shape(), image=False, imagePath='b.png'))


def test_a_file_of_labelme2coco_beside_the_labels_is_left_out(tmp_path):
    root = put(tmp_path / 'in', shape(), name='b')
    (root / 'a_coco.json').write_text(json.dumps(dict(images=[], annotations=[], categories=[])))
    data = read(root)
    assert len(data.images) == 1
    assert data.notes == ["1 files in COCO's format beside the JSON files of LabelMe: left out"]


def test_a_broken_shape_or_file_among_sound_ones_is_left_out(tmp_path):
    put(tmp_path / 'in', shape(), shape([[1, 1], [2, 2]]))
    (tmp_path / 'in/b.json').write_text('{"shapes": [')
    put(tmp_path / 'in', shape(), image=False, imagePath='c.png', name='c')
    data = read_labelme(tmp_path / 'in', ReadOptions())
    assert len(data.images) == len(data.images[0].objects) == 1
    reasons = {kind: [error.reason for error in errors] for kind, errors in data.left_out.items()}
    assert reasons == dict(
        objects=['a polygon of 2 points has no area'],
        images=['is not valid JSON', 'its image is neither there nor in the file'],
    )


def test_values_of_other_types_are_no_crash(tmp_path):
    root = put(tmp_path / 'in', dict(shape(), flags='crowd'), imagePath='x' * 300)
    (item,) = read(root).images[0].objects
    assert not item.is_crowd


def test_an_image_that_cannot_be_read_is_counted_once(tmp_path):
    root = put(tmp_path / 'in', shape())
    (put(root, shape(), name='b') / 'b.png').write_text('no image')
    assert list(left_out(read_labelme(root, ReadOptions()))) == ['images']
