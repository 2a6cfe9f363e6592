"""Pictures of objects and classes as Pascal VOC and CVAT lay them out."""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api
from support.label_exports import left_out, sound

from mmdet_sag.datasets.converters.labelled_data import ReadOptions
from mmdet_sag.datasets.converters.pascal_voc import (
    is_pascal_voc,
    is_voc_boxes,
    read_pascal_voc,
    read_voc_boxes,
)
from mmdet_sag.datasets.converters.source_files import NOT_LEARNT
from mmdet_sag.errors import InputError


@pytest.fixture
def source(tmp_path):
    objects = np.zeros((20, 30), np.uint8)
    objects[2:10, 2:10], objects[2:10, 10:20], objects[12:18, 4:9] = 1, 2, 3
    classes = np.zeros_like(objects)
    classes[objects == 1] = classes[objects == 3] = 12
    classes[objects == 2] = 15
    for values in (objects, classes):
        values[1, 1:21] = 255
    for folder, values in (('SegmentationObject', objects), ('SegmentationClass', classes)):
        (tmp_path / folder).mkdir()
        for name in 'ab':
            picture = Image.fromarray(values).convert('P')
            picture.putpalette([i for i in range(256) for _ in range(3)])
            picture.putdata(values.ravel().tolist())
            picture.save(tmp_path / folder / f'{name}.png')
    (tmp_path / 'JPEGImages').mkdir()
    for name in 'ab':
        Image.new('RGB', (30, 20)).save(tmp_path / f'JPEGImages/{name}.jpg')
    (tmp_path / 'ImageSets/Segmentation').mkdir(parents=True)
    (tmp_path / 'ImageSets/Segmentation/train.txt').write_text('a\n')
    (tmp_path / 'ImageSets/Segmentation/val.txt').write_text('b\n')
    return tmp_path


def test_every_value_but_the_border_is_an_object_of_its_class(source):
    assert is_pascal_voc(source)
    data = read_pascal_voc(source, ReadOptions())
    assert [(image.name, image.split) for image in data.images] == [('a.jpg', 'train'), ('b.jpg', 'val')]
    found = data.images[0].objects
    assert [item.name for item in found] == ['dog', 'person', 'dog']
    assert [int(mask_api.area(item.segmentation)) for item in found] == [64, 80, 30]


def test_lists_of_cvat_are_the_split(source):
    lists = source / 'ImageSets/Segmentation'
    (lists / 'train.txt').rename(lists / 'Train.txt')
    (lists / 'val.txt').unlink()
    (lists / 'Validation.txt').write_text('my photo\n')
    for path in source.glob('*/b.*'):
        path.rename(path.with_stem('my photo'))
    found = sound(read_pascal_voc(source, ReadOptions())).images
    assert [(image.name, image.split) for image in found] == [('a.jpg', 'train'), ('my photo.jpg', 'val')]


def test_what_is_not_learnt_is_counted(source):
    (source / 'ImageSets/Segmentation/val.txt').unlink()
    Image.new('RGB', (30, 20)).save(source / 'JPEGImages/c.jpg')
    data = read_pascal_voc(source, ReadOptions())
    assert [image.name for image in data.images] == ['a.jpg']
    unlisted, without_mask = left_out(data)[NOT_LEARNT]
    assert 'SegmentationObject/b.png' in unlisted and 'JPEGImages/c.jpg' in without_mask


def test_boxes_of_all_images_are_read(tmp_path):
    box = '<bndbox><xmin>5</xmin><ymin>7</ymin><xmax>12</xmax><ymax>24</ymax></bndbox>'
    item = f'<object><name>pole</name>{box}</object>'
    # Without an object, verified in LabelImg, and in a folder of CVAT.
    heads = {'a': '<annotation>', 'b': '<annotation verified="yes">', 'north/c': '<annotation>'}
    for name, head in heads.items():
        path = tmp_path / f'Annotations/{name}.xml'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{head}<filename>{name}.png</filename>{"" if name == "a" else item}</annotation>')
        (tmp_path / f'JPEGImages/{name}.png').parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (40, 30)).save(tmp_path / f'JPEGImages/{name}.png')
    assert is_voc_boxes(tmp_path)
    options = ReadOptions(boxes=True)
    assert [len(image.objects) for image in sound(read_voc_boxes(tmp_path, options)).images] == [0, 1, 1]
    (tmp_path / 'ImageSets/Main').mkdir(parents=True)
    (tmp_path / 'ImageSets/Main/Train.txt').write_text('a\nnorth/c\n')
    data = read_voc_boxes(tmp_path, options)
    assert [(image.split, len(image.objects)) for image in data.images] == [('train', 0), ('train', 1)]
    (unlisted,) = left_out(data)[NOT_LEARNT]
    assert 'JPEGImages/b.png' in unlisted and 'in no train, val or test list' in unlisted
    alone = ReadOptions(boxes=True, image_folder=tmp_path)
    assert len(read_voc_boxes(tmp_path / 'Annotations/b.xml', alone).images) == 1


def test_colours_of_cvat_are_read_through_its_labelmap(source):
    colours = {0: (0, 0, 0), 12: (200, 10, 0), 15: (0, 10, 200), 255: (224, 224, 192)}
    for name in 'ab':
        path = source / f'SegmentationClass/{name}.png'
        values = np.asarray(Image.open(path))
        picture = np.zeros((*values.shape, 3), np.uint8)
        for value, colour in colours.items():
            picture[values == value] = colour
        Image.fromarray(picture).save(path)
    (source / 'labelmap.txt').write_text(
        '# label:color_rgb:parts:actions\nbackground:0,0,0::\ndefect:0,10,200::\ninsulator:200,10,0::\n'
    )
    data = read_pascal_voc(source, ReadOptions())
    assert data.classes == ['defect', 'insulator']
    assert [item.name for item in data.images[0].objects] == ['insulator', 'defect', 'insulator']
    with pytest.raises(InputError, match='change the names with --rename'):
        read_pascal_voc(source, ReadOptions(class_names=['a', 'b']))


def test_the_border_between_coloured_objects_is_not_an_object(source):
    expected = read_pascal_voc(source, ReadOptions()).images[0].objects
    colours = {0: (0, 0, 0), 1: (0, 10, 200), 2: (200, 10, 0), 3: (200, 10, 9), 255: (224, 224, 192)}
    for name in 'ab':
        path = source / f'SegmentationObject/{name}.png'
        values = np.asarray(Image.open(path))
        picture = np.zeros((*values.shape, 3), np.uint8)
        for value, colour in colours.items():
            picture[values == value] = colour
        Image.fromarray(picture).save(path)
    found = read_pascal_voc(source, ReadOptions()).images[0].objects
    assert [(item.name, item.segmentation) for item in found] == [(item.name, item.segmentation) for item in expected]


def test_what_does_not_fit_is_named(source):
    with pytest.raises(InputError, match='class without a name'):
        read_pascal_voc(source, ReadOptions(class_names=['insulator']))
    (source / 'JPEGImages/b.jpg').unlink()
    with pytest.raises(InputError, match='b.png.* has no image'):
        sound(read_pascal_voc(source, ReadOptions()))
    Image.new('RGB', (20, 30)).save(source / 'JPEGImages/b.jpg')
    with pytest.raises(InputError, match='20x30 pixels, but its labels are of 30x20'):
        sound(read_pascal_voc(source, ReadOptions()))
