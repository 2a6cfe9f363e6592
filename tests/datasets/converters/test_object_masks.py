"""A picture for each object."""

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api

from mmdet_sag.datasets.converters import LabelConversion, ReadOptions
from mmdet_sag.datasets.converters.instance_masks import is_object_masks, read_object_masks
from mmdet_sag.datasets.converters.source_files import NOT_LEARNT
from mmdet_sag.errors import InputError


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def mask(*boxes, value=255, size=(20, 30)):
    values = np.zeros(size, np.uint8)
    for index, (x, y) in enumerate(boxes):
        values[y : y + 6, x : x + 6] = value + index
    values[4, 4] = 0
    return values


IMAGE = np.zeros((20, 30, 3), np.uint8)


def put(root, *images, **masks):
    for name in images:
        save(root / name, IMAGE)
    for name, values in masks.items():
        save(root / name, values)
    return root


def read(root, **options):
    assert is_object_masks(root)
    return read_object_masks(root, ReadOptions(**dict(dict(class_names=['cell']), **options)))


ONE, TWO, BOTH = mask((2, 2)), mask((15, 10)), mask((2, 2), (15, 10), value=1)


@pytest.mark.parametrize(
    ('images', 'masks'),
    [
        (
            ['stage1_train/0a/images/0a.png', 'stage1_train/b/images/b.png'],
            {
                'stage1_train/0a/masks/1f.png': ONE,
                'stage1_train/0a/masks/2e.png': TWO,
                'stage1_train/b/masks/c.png': ONE,
            },
        ),
        (['images/a.jpg', 'images/b.png'], {'masks/a_1.png': ONE, 'masks/a_2.png': TWO, 'masks/b_1.png': ONE}),
        (['images/a.jpg', 'images/b.png'], {'masks/a/1.png': ONE, 'masks/a/2.png': TWO, 'masks/b/1.png': ONE}),
        (['a.jpg', 'b.png'], {'a_1.png': ONE, 'a_2.png': TWO, 'b_mask_1.png': ONE}),
        (['PNGImages/a.png', 'PNGImages/b.png'], {'PedMasks/a_mask.png': BOTH, 'PedMasks/b_mask.png': ONE}),
    ],
)
def test_pictures_become_objects_and_holes_stay(images, masks, tmp_path):
    data = read(put(tmp_path, *images, **masks))
    first, second = data.images
    assert data.classes == ['cell'] and not data.left_out
    assert [int(mask_api.area(item.segmentation)) for item in first.objects] == [35, 36]
    np.testing.assert_array_equal(mask_api.decode(second.objects[0].segmentation), ONE > 0)


def test_images_beside_the_masks_are_found_where_another_folder_is_named_too(tmp_path):
    put(tmp_path / 'in', 'images/train/a.jpg', **{'masks/train/a_1.png': ONE, 'masks/b_1.png': TWO})
    put(tmp_path / 'more', 'b.jpg')
    data = read(tmp_path / 'in', image_folder=tmp_path / 'more')
    assert [(image.name, image.split) for image in data.images] == [('a.jpg', 'train'), ('b.jpg', None)]


def test_they_are_detected_before_pictures_of_all_objects(tmp_path):
    put(tmp_path / 'in', 'images/a.png', 'images/b.png', **{'masks/a_1.png': ONE, 'masks/b_1.png': TWO})
    conversion = LabelConversion([tmp_path / 'in'], ReadOptions(['cell']))
    conversion.read()
    assert 'a picture for each object, 2 images' in conversion.notes[0]
    put(tmp_path / 'all', 'images/a.png', 'images/a_1.png', **{'masks/a.png': BOTH, 'masks/a_1.png': BOTH})
    assert not is_object_masks(tmp_path / 'all')


def test_a_mask_of_one_value_may_be_of_a_class_and_is_asked_about(tmp_path):
    both = mask((2, 2), (15, 10), value=254)
    both[both > 0] = 255
    put(tmp_path, 'a.jpg', **{'a_mask.png': both})
    with pytest.raises(InputError, match='--components'):
        read(tmp_path)
    assert len(read(tmp_path, components=True).images[0].objects) == 2
    assert len(read(tmp_path, components=False).images[0].objects) == 1


def test_masks_that_cannot_be_used_are_left_out(tmp_path):
    masks = {'a_1.png': ONE, 'a_2.png': BOTH, 'a_3.png': ONE * 0, 'a_4.png': mask((2, 2), size=(21, 30))}
    data = read(put(tmp_path, 'images/a.png', 'images/b.png', **{f'masks/{name}': v for name, v in masks.items()}))
    assert [len(image.objects) for image in data.images] == [1]
    assert {kind: [error.reason for error in errors] for kind, errors in data.left_out.items()} == {
        'objects': ['masks of one object that have several values', 'masks of another size than their image'],
        NOT_LEARNT: ['masks without a pixel', 'images without a mask'],
    }
    with pytest.raises(InputError, match='--source-classes NAME'):
        read(tmp_path, class_names=None)


@pytest.mark.parametrize('name', ['a_mask.png', 'a_1.png'])
def test_a_mask_with_grey_levels_between_black_and_white_is_left_out_and_says_what_to_do(tmp_path, name):
    smoothed = cv2.blur(cv2.circle(np.zeros((20, 30), np.uint8), (15, 10), 7, 255, -1), (3, 3))
    data = read(put(tmp_path, 'a.jpg', **{name: smoothed}))
    assert not data.images[0].objects
    assert 'black and white with grey levels between' in str(data.left_out['objects'][0])
