"""Orientation, depth and channels of image files."""

import json

import cv2
import mmcv
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mmdet_sag.checks.images import header_problem
from mmdet_sag.datasets.converters import LabelConversion, ReadOptions, label_conversion, source_files
from mmdet_sag.datasets.converters.masks import read_values
from mmdet_sag.datasets.converters.source_files import read_header
from mmdet_sag.errors import InputError


def save_turned(path, orientation, seed, size=(40, 20)):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(cv2.GaussianBlur(pixels, (5, 5), 2))
    exif = image.getexif()
    exif[0x0112] = orientation
    exif[0x010F] = 'a camera'
    image.save(path, exif=exif, quality=95)


def coco_file(root, width, height, suffix='.jpg'):
    images = [dict(id=i, file_name=f'{i}{suffix}', width=width, height=height) for i in (1, 2)]
    annotations = [
        dict(
            id=i,
            image_id=i,
            category_id=1,
            iscrowd=0,
            bbox=[1, 1, 5, 5],
            area=25,
            segmentation=[[1, 1, 6, 1, 6, 6, 1, 6]],
        )
        for i in (1, 2)
    ]
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='x')])
    (root / 'labels.json').write_text(json.dumps(content))
    return root / 'labels.json'


def convert(path, out, **options):
    conversion = LabelConversion([path], ReadOptions(**options))
    conversion.read()
    conversion.split(0.5, 0, None, False)
    conversion.write(out)
    (image,) = json.loads((out / 'annotations/instances_train.json').read_text())['images']
    return image, out / 'train' / image['file_name']


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_labels_of_the_stored_picture_get_a_file_that_nobody_turns(suffix, tmp_path):
    for i in (1, 2):
        save_turned(tmp_path / f'{i}{suffix}', 6, i)
    image, copy = convert(coco_file(tmp_path, 40, 20, suffix), tmp_path / 'out')
    assert (image['width'], image['height']) == (40, 20)
    stored = cv2.imread(str(tmp_path / image['file_name']), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    np.testing.assert_array_equal(mmcv.imread(copy), stored)
    assert not Image.open(copy).getexif()


def test_labels_of_the_turned_picture_keep_the_file(tmp_path):
    for i in (1, 2):
        save_turned(tmp_path / f'{i}.jpg', 8, i)
    image, copy = convert(coco_file(tmp_path, 20, 40), tmp_path / 'out')
    assert (image['width'], image['height']) == (20, 40)
    assert copy.read_bytes() == (tmp_path / image['file_name']).read_bytes()
    assert mmcv.imread(copy).shape == (40, 20, 3)


@pytest.mark.parametrize('kind', ['jpg', 'webp', 'avif', 'png'])
def test_an_orientation_that_training_does_not_see_is_none(kind, tmp_path):
    image, path = Image.new('RGB', (40, 20)), tmp_path / f'a.{kind}'
    exif = image.getexif()
    exif[0x0112] = 6
    options = dict(xmp=b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>')
    if kind == 'avif':
        options = dict(exif=exif)
    elif kind == 'png':
        # As ImageMagick writes it.
        text = exif.tobytes()
        options = dict(pnginfo=PngInfo())
        options['pnginfo'].add_text('Raw profile type exif', f'\nexif\n{len(text):8}\n{text.hex()}\n', zip=True)
    image.save(path, **options)
    assert Image.open(path).getexif()[0x0112] == 6
    assert mmcv.imread(path).shape == (20, 40, 3)
    assert read_header(path).seen == (40, 20) and header_problem(str(path), (40, 20)) is None


def test_a_turn_that_keeps_the_size_is_asked_about(tmp_path):
    for i in (1, 2):
        save_turned(tmp_path / f'{i}.jpg', 3, i)
    path = coco_file(tmp_path, 40, 20)
    with pytest.raises(InputError, match='--exif turned or --exif stored'):
        convert(path, tmp_path / 'out')
    image, turned = convert(path, tmp_path / 'turned', exif='turned')
    _, stored = convert(path, tmp_path / 'stored', exif='stored')
    np.testing.assert_array_equal(mmcv.imread(turned), mmcv.imread(stored)[::-1, ::-1])


def test_pictures_as_cameras_and_programs_write_them_are_taken(tmp_path):
    for mode in ('L', 'LA', 'RGBA', 'P', '1'):
        path = tmp_path / f'{mode}.png'
        Image.new(mode, (30, 20)).save(path)
        assert read_header(path).seen == (30, 20)
        assert mmcv.imread(path).shape == (20, 30, 3)


def test_sixteen_bits_are_taken_where_training_can_see_them(tmp_path):
    bright, dark = np.full((20, 30), 50000, np.uint16), np.full((20, 30), 4000, np.uint16)
    cv2.imwrite(str(tmp_path / 'bright.png'), bright)
    assert read_header(tmp_path / 'bright.png').seen == (30, 20)
    for name, pixels in (('grey.png', dark), ('colour.png', np.dstack([dark] * 3)), ('grey.tif', dark)):
        cv2.imwrite(str(tmp_path / name), pixels)
        with pytest.raises(InputError, match='up to 15 of 255'):
            read_header(tmp_path / name)


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / 'a.jpg').write_text('<html>')
    with pytest.raises(InputError, match='a.jpg.* cannot be read'):
        read_header(tmp_path / 'a.jpg')


def test_images_beyond_the_limit_of_pillow_are_read_up_to_that_of_opencv(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    monkeypatch.setattr(label_conversion, '_LARGE', 200)
    for i in (1, 2):
        cv2.imwrite(str(tmp_path / f'{i}.png'), np.full((20, 30, 3), i, np.uint8))
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / '1.png')
    conversion = LabelConversion([coco_file(tmp_path, 30, 20, '.png')])
    conversion.read()
    assert conversion.notes[-1].startswith('warning: 2 images have more than')
    assert header_problem(str(tmp_path / '1.png'), (30, 20)) is None
    assert read_values(tmp_path / '1.png').shape == (20, 30)
    assert Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.setattr(source_files, 'MAX_PIXELS', 500)
    with pytest.raises(InputError, match='600 pixels.* limit .*: cut it into tiles'):
        read_header(tmp_path / '1.png')
