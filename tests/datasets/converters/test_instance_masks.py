"""Pictures whose values number the objects."""

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api
from support.label_exports import left_out, sound

from mmdet_sag.datasets.converters.instance_masks import (
    is_cityscapes,
    is_instance_masks,
    read_cityscapes,
    read_instance_masks,
)
from mmdet_sag.datasets.converters.labelled_data import ReadOptions
from mmdet_sag.datasets.converters.source_files import NOT_LEARNT
from mmdet_sag.errors import InputError


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def two_regions(first=1, second=2, dtype=np.uint8):
    values = np.zeros((20, 30), dtype)
    values[2:8, 2:8], values[10:18, 15:25] = first, second
    # A hole, which COCO's polygons could not hold.
    values[12:14, 18:20] = 0
    return values


def read(root, **options):
    assert is_instance_masks(root)
    return sound(read_instance_masks(root, ReadOptions(**options)))


def areas(image):
    return [(item.name, int(mask_api.area(item.segmentation))) for item in image.objects]


def test_a_value_is_an_object_and_its_hole_stays_a_hole(tmp_path):
    save(tmp_path / 'images/train/a.png', np.zeros((20, 30, 3), np.uint8))
    save(tmp_path / 'masks/train/a.png', two_regions())
    save(tmp_path / 'images/train/b.png', np.zeros((20, 30, 3), np.uint8))
    data = read(tmp_path, class_names=['defect'])
    assert (data.images[0].name, data.images[0].split) == ('a.png', 'train')
    assert left_out(data) == {NOT_LEARNT: [f"'{tmp_path}/images/train/b.png': images without a mask"]}
    assert areas(data.images[0]) == [('defect', 36), ('defect', 76)]
    np.testing.assert_array_equal(mask_api.decode(data.images[0].objects[1].segmentation), two_regions() == 2)


@pytest.mark.parametrize('count', [1, 400])
def test_the_mask_of_a_value_is_that_of_its_bitmap(count, tmp_path):
    # Regions in pieces, and at all borders.
    values = np.random.default_rng(0).integers(0, count + 1, (20, 30), dtype=np.uint16)
    save(tmp_path / 'images/a.png', np.zeros((20, 30), np.uint8))
    save(tmp_path / 'masks/a.png', values)
    bitmaps = [np.asfortranarray(values == value, np.uint8) for value in np.unique(values[values > 0])]
    expected = [dict(mask_api.encode(bitmap), counts=mask_api.encode(bitmap)['counts'].decode()) for bitmap in bitmaps]
    found = read(tmp_path, class_names=['cell'], components=False).images[0].objects
    assert [item.segmentation for item in found] == expected


def test_values_of_sixteen_bits_hold_class_and_number(tmp_path):
    save(tmp_path / 'images/a.png', np.zeros((20, 30), np.uint8))
    save(tmp_path / 'masks/a.png', two_regions(1001, 2001, np.uint16))
    data = read(tmp_path, class_names=['insulator', 'defect'])
    assert areas(data.images[0]) == [('insulator', 36), ('defect', 76)]
    with pytest.raises(InputError, match='value 3 is not class'):
        save(tmp_path / 'masks/a.png', two_regions(1001, 3, np.uint16))
        read(tmp_path, class_names=['insulator', 'defect'])


def test_folders_of_masks_name_the_classes(tmp_path):
    save(tmp_path / 'images/a.jpg', np.zeros((20, 30, 3), np.uint8))
    save(tmp_path / 'masks/insulator/a.png', two_regions())
    save(tmp_path / 'masks/defect/a.png', two_regions(0, 5))
    data = read(tmp_path)
    assert data.classes == ['defect', 'insulator']
    assert areas(data.images[0]) == [('defect', 76), ('insulator', 36), ('insulator', 76)]


def test_masks_of_one_value_may_be_of_a_class_and_are_asked_about(tmp_path):
    save(tmp_path / 'images/a.png', np.zeros((20, 30, 3), np.uint8))
    save(tmp_path / 'masks/a.png', two_regions(255, 255))
    with pytest.raises(InputError, match='--components'):
        read(tmp_path, class_names=['defect'])
    assert len(read(tmp_path, class_names=['defect'], components=True).images[0].objects) == 2
    assert len(read(tmp_path, class_names=['defect'], components=False).images[0].objects) == 1


SQUARES = np.kron(two_regions(255, 255), np.ones((8, 8), np.uint8))
DISC = cv2.circle(np.zeros((160, 240), np.uint8), (120, 80), 50, 255, -1)


def jpeg(values, quality):
    return cv2.imdecode(cv2.imencode('.jpg', values, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


@pytest.mark.parametrize('components', [None, True, False])
@pytest.mark.parametrize(
    'values',
    [
        cv2.resize(DISC, (100, 70), interpolation=cv2.INTER_AREA),
        cv2.resize(SQUARES, (350, 270)),
        cv2.GaussianBlur(DISC, (0, 0), 2),
        jpeg(DISC, 50),
        jpeg(DISC, 95),
        np.dstack([jpeg(DISC, 75)] * 3),
    ],
    ids=['smaller', 'larger', 'blurred', 'JPEG of low quality', 'JPEG of high quality', 'JPEG, colours'],
)
def test_grey_levels_between_black_and_white_are_no_numbers_of_objects(tmp_path, values, components):
    save(tmp_path / 'images/a.png', np.zeros((*values.shape[:2], 3), np.uint8))
    save(tmp_path / 'masks/a.png', values)
    with pytest.raises(InputError, match=r'a\.png.* grey levels? .*make the masks 0 and 255'):
        read(tmp_path, class_names=['x'], components=components)


def numbered(count, size, white=None):
    """Objects in rows, of a size in pixels, numbered up to 255; ``white`` draws their borders."""
    numbers = np.linspace(1, 255, count).astype(np.uint8).reshape(-1, 15)
    values = np.kron(numbers, np.pad(np.ones((size, size), np.uint8), 1))
    if white:
        values[(cv2.dilate(values, np.ones((3, 3))) > 0) & (values == 0)] = white
    return values


@pytest.mark.parametrize(
    'values, count',
    [
        (numbered(255, 5), 255),
        (numbered(255, 2), 255),
        (numbered(255, 1), 255),
        (numbered(30, 9), 30),
        (numbered(15, 2, white=255), 15),
        (np.hstack([numbered(255, 2), np.full((68, 200), 255, np.uint8)]), 255),
        (numbered(255, 5) + np.uint16(3) * (numbered(255, 5) > 0), 255),
    ],
)
def test_numbers_of_objects_up_to_white_are_read(tmp_path, values, count):
    save(tmp_path / 'images/a.png', np.zeros((*values.shape, 3), np.uint8))
    save(tmp_path / 'masks/a.png', values)
    assert len(read(tmp_path, class_names=['x'], components=False).images[0].objects) == count


@pytest.mark.parametrize('name', ['a.jpg', 'a.png'])
def test_a_jpeg_holds_no_numbers_of_objects_whatever_its_name(tmp_path, name):
    save(tmp_path / 'images/a.png', np.zeros((*DISC.shape, 3), np.uint8))
    (tmp_path / 'masks').mkdir()
    Image.fromarray(DISC).save(tmp_path / 'masks' / name, 'JPEG')
    with pytest.raises(InputError, match=rf"masks/{name}' is a JPEG, whose values are not exact: export .*PNG"):
        read(tmp_path, class_names=['x'])


def test_masks_that_do_not_fit_are_named(tmp_path):
    save(tmp_path / 'images/a.png', np.zeros((20, 30, 3), np.uint8))
    save(tmp_path / 'masks/a.png', two_regions())
    with pytest.raises(InputError, match='--source-classes'):
        read(tmp_path)
    save(tmp_path / 'masks/b.png', two_regions())
    with pytest.raises(InputError, match='b.png.* has no image'):
        read(tmp_path, class_names=['x'])
    save(tmp_path / 'images/b.png', np.zeros((10, 30, 3), np.uint8))
    with pytest.raises(InputError, match='30x10 pixels, but its labels are of 30x20'):
        read(tmp_path, class_names=['x'])


def test_cityscapes_ids_are_classes_groups_and_stuff(tmp_path):
    ids = np.full((20, 30), 7, np.uint16)
    ids[2:6, 2:6], ids[8:12, 2:6], ids[2:6, 10:20], ids[15:18, 3:9] = 26000, 26001, 24000, 26
    for city in ('aachen', 'bonn'):
        save(tmp_path / f'gtFine/train/{city}/{city}_000000_000019_gtFine_instanceIds.png', ids)
        save(tmp_path / f'gtFine/train/{city}/{city}_000000_000019_gtFine_labelIds.png', ids.astype(np.uint8))
        save(
            tmp_path / f'leftImg8bit/train/{city}/{city}_000000_000019_leftImg8bit.png', np.zeros((20, 30, 3), np.uint8)
        )
    assert is_cityscapes(tmp_path)
    data = read_cityscapes(tmp_path, ReadOptions())
    assert len(data.images) == 2 and data.images[0].split == 'train'
    assert [(item.name, item.is_crowd) for item in data.images[0].objects] == [
        ('car', True),
        ('person', False),
        ('car', False),
        ('car', False),
    ]
    (tmp_path / 'leftImg8bit/train/bonn/bonn_000000_000019_leftImg8bit.png').unlink()
    with pytest.raises(InputError, match='has no image'):
        sound(read_cityscapes(tmp_path, ReadOptions()))


def test_values_that_repeat_over_images_may_be_classes_and_are_asked_about(tmp_path):
    for index, (first, second) in enumerate([(127, 254), (254, 127), (127, 127)]):
        save(tmp_path / f'images/{index}.png', np.zeros((20, 30, 3), np.uint8))
        save(tmp_path / f'masks/{index}.png', two_regions(first, second))
    with pytest.raises(InputError, match='the values 127, 254, which may be classes: give --components'):
        read(tmp_path, class_names=['fire'])
    with pytest.raises(InputError, match='or give --components if values are classes'):
        read(tmp_path, class_names=['fire', 'smoke'])
    assert len(read(tmp_path, class_names=['fire'], components=False).images[2].objects) == 1
    data = read(tmp_path, class_names=['fire', 'smoke'], components=True)
    assert [areas(image) for image in data.images] == [
        [('fire', 36), ('smoke', 76)],
        [('fire', 76), ('smoke', 36)],
        [('fire', 36), ('fire', 76)],
    ]
    with pytest.raises(InputError, match='2 values .127, 254., but --source-classes names 3'):
        read(tmp_path, class_names=['a', 'b', 'c'], components=True)


def test_numbers_of_objects_repeat_too_and_are_not_asked_about(tmp_path):
    for index, (first, second) in enumerate([(1, 2), (2, 1), (1, 1)]):
        save(tmp_path / f'images/{index}.png', np.zeros((20, 30, 3), np.uint8))
        save(tmp_path / f'masks/{index}.png', two_regions(first, second))
    assert [len(image.objects) for image in read(tmp_path, class_names=['x']).images] == [2, 2, 1]
