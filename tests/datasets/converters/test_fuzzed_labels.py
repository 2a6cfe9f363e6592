"""Damaged sources of every format become a data set without problems or one line of an error, and nothing else.

``MMDET_SAG_FUZZED_LABELS=10000`` tries as many.
"""

import io
import json
import os
import random
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import test_coco_data_set
import test_cvat
import test_datumaro
import test_isat
import test_label_studio
import test_labelme
import test_object_masks
import test_segment_anything
import test_supervisely
import test_via
import test_yolo
from PIL import Image
from test_instance_masks import two_regions

from mmdet_sag.checks import DataSetReport, check_files
from mmdet_sag.datasets.converters import FORMATS, LabelConversion, ReadOptions
from mmdet_sag.datasets.converters.source_files import NOT_LEARNT
from mmdet_sag.errors import InputError

NUM_INPUTS = int(os.environ.get('MMDET_SAG_FUZZED_LABELS', '250'))
ODD = [
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    1e308,
    float('nan'),
    '',
    'x',
    '\ud800',
    '1e9',
    'x' * 10**5,
    [],
    {},
    [[]],
    [None],
    {'a': []},
]
ODD += [[[1, 2], [3]], [1] * 5000, {'size': [10**9, 10**9], 'counts': '0'}, {'size': [20, 30], 'counts': [10**12]}]
TEXTS = [
    '',
    'x',
    '-1',
    '0',
    '1e308',
    '9' * 30,
    '9' * 5000,
    'nan',
    '1,2',
    ';',
    '\0',
    '\u0661',
    '&#x41;',
    '<a/>',
    '- &a [*a]',
]
BOXES = """<annotation><filename>{}.jpg</filename><size><width>30</width><height>20</height></size>
<object><name>leaf</name><bndbox><xmin>3</xmin><ymin>2</ymin><xmax>12</xmax><ymax>9</ymax></bndbox></object>
<object><name>stem</name><bndbox><xmin>14</xmin><ymin>5</ymin><xmax>29</xmax><ymax>18</ymax></bndbox></object></annotation>
"""
NEED_NAMES = ('yolo', 'masks', 'object-masks', 'sa-1b')
NAMES = 'abcd'
SPLITS = ('train', 'val', 'test')


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def sources(root: Path) -> None:
    """A sound source of each format, in folders that are named after them."""
    photo = np.zeros((20, 30, 3), np.uint8)
    more = ''.join(f'<image id="{name}" name="{name}.png" width="30" height="20"></image>' for name in 'cd')
    places = ('images/Train/north/a.png', 'images/Validation/b.png', 'images/c.png', 'images/d.png')
    test_cvat.put(root / 'cvat', test_cvat.EXPORT.replace('</annotations>', f'{more}</annotations>'), places)
    test_datumaro.put(root / 'datumaro', splits=SPLITS)
    test_via.put(root / 'via', test_via.project())
    test_via.put(root / 'via 1', test_via.version_1())
    task = test_label_studio.task(test_label_studio.annotation(test_label_studio.RESULTS))
    others = [
        dict(test_label_studio.task(test_label_studio.annotation([]), image=f'{name}.png'), file_upload=f'{name}.png')
        for name in NAMES[1:]
    ]
    test_label_studio.put(root / 'label-studio', task, *others, names=[f'{name}.png' for name in NAMES])
    for name in NAMES:
        test_isat.put(root / 'isat', name=name)
        test_segment_anything.put(root / 'sa-1b', name=name)
        test_supervisely.put(root / 'supervisely', name=name)
        test_labelme.put(root / 'labelme', test_labelme.shape(), test_labelme.shape(kind='rectangle'), name=name)
        test_yolo.put(root / f'yolo/{name}.png', root / f'yolo/{name}.txt')
        for split in ('train', 'val'):
            place = f'yolo yaml/{split}'
            test_yolo.put(root / f'{place}/images/{name}.png', root / f'{place}/labels/{name}.txt')
        save(root / f'masks/images/{name}.png', photo)
        save(root / f'masks/masks/{name}.png', two_regions())
        save(root / f'class masks/images/{name}.png', photo)
        save(root / f'class masks/masks/leaf/{name}.png', two_regions(255, 255))
        save(root / f'object-masks/{name}/images/{name}.png', photo)
        save(root / f'object-masks/{name}/masks/1.png', test_object_masks.ONE)
        save(root / f'cityscapes/{name}_leftImg8bit.png', photo)
        save(root / f'cityscapes/{name}_gtFine_instanceIds.png', two_regions(26001, 24, np.uint16))
        save(root / f'voc/JPEGImages/{name}.jpg', photo)
        save(root / f'voc/SegmentationObject/{name}.png', two_regions())
        save(root / f'voc/SegmentationClass/{name}.png', two_regions(12, 15))
        save(root / f'voc-boxes/{name}.jpg', photo)
        (root / f'voc-boxes/{name}.xml').write_text(BOXES.format(name))
    (root / 'yolo yaml/data.yaml').write_text('train: train/images\nval: val/images\nnames: {0: cat, 1: dog}\n')
    (root / 'voc/ImageSets/Segmentation').mkdir(parents=True)
    (root / 'voc/ImageSets/Segmentation/train.txt').write_text('a\n')
    (root / 'voc/ImageSets/Segmentation/val.txt').write_text('b\nc\nd\n')
    test_coco_data_set.put_images(root / 'coco/images', *(f'{name}.png' for name in NAMES))
    rle = test_coco_data_set.annotation(3, 1, segmentation=dict(size=[20, 30], counts=[25, 5, 570]))
    annotations = [test_coco_data_set.annotation(1), test_coco_data_set.annotation(2), rle]
    test_coco_data_set.write(root / 'coco/annotations.json', [f'{name}.png' for name in NAMES], annotations)
    # Equal files would be copies of one image.
    for number, path in enumerate(sorted(path for path in root.rglob('*.*') if path.suffix in ('.png', '.jpg'))):
        with Image.open(path) as picture:
            if picture.mode == 'RGB':
                Image.new('RGB', picture.size, (number, 0, 0)).save(path)


def damaged_json(text: str, chance: random.Random) -> str:
    """Text in which one or some values are gone, are others, or are many."""
    if chance.random() < 0.03:
        return chance.choice(('[', '{"a":')) * 10**5
    content = json.loads(text)
    for _ in range(chance.choice((1, 1, 3))):
        place = content
        while place:
            key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if isinstance(place[key], dict | list) and place[key] and chance.random() < 0.8:
                place = place[key]
                continue
            if chance.random() < 0.2:
                del place[key]
            elif isinstance(place, list) and chance.random() < 0.1:
                place += [place[key]] * chance.choice((1, 300))
            else:
                place[key] = json.loads(json.dumps(chance.choice(ODD)))
            break
    return json.dumps(content)


def damaged_text(text: str, chance: random.Random) -> str:
    for _ in range(chance.choice((1, 1, 3))):
        start = chance.choice([0, *(place for place, letter in enumerate(text) if letter in ' \n"\',;:>{[')])
        stop = start + chance.randrange(12)
        text = text[: start + 1] + chance.choice(TEXTS) + text[stop:]
    return text * chance.choice((1, 1, 1, 300))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def damaged_picture(data: bytes, chance: random.Random) -> bytes:
    """Another picture: of other pixels, or one that says that it is large, or one with wrong bytes."""
    way = chance.randrange(4)
    if way == 0:
        data = bytearray(data)
        for _ in range(chance.choice((1, 5, 50))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        return bytes(data)
    if way == 1:
        size, depth = chance.choice((0, 1, 9000, 60000)), chance.choice((1, 8, 16))
        header = struct.pack('>IIBBBBB', size, size, depth, chance.choice((0, 2, 3, 6)), 0, 0, 0)
        return (
            b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'\0')) + chunk(b'IEND', b'')
        )
    shape = chance.choice(((20, 30), (20, 30), (30, 20), (1, 1)))
    values = np.random.default_rng(chance.randrange(99)).integers(0, chance.choice((1, 2, 4, 256, 2**16)), shape)
    picture = Image.fromarray(values.astype(np.uint16 if values.max() > 255 else np.uint8))
    if picture.mode == 'L':
        picture = picture.convert(chance.choice(('L', '1', 'P', 'LA', 'RGB', 'RGBA', 'CMYK', 'F')))
    file = io.BytesIO()
    picture.save(file, 'PNG' if picture.mode not in ('CMYK', 'F') else 'TIFF')
    return file.getvalue()


def damaged(path: str, files: dict[str, bytes], chance: random.Random) -> bytes | None:
    """Another content of a file; None: it is gone."""
    data, way = files[path], chance.random()
    if way < 0.08:
        return None
    if way < 0.16:
        return data[: chance.randrange(len(data) + 1)]
    if way < 0.2:
        return files[chance.choice(list(files))]
    if path.endswith(('.png', '.jpg')):
        return damaged_picture(data, chance)
    text = (damaged_json if path.endswith('.json') else damaged_text)(data.decode(), chance)
    return text.encode() + (b'\xff' if chance.random() < 0.03 else b'')


def put(root: Path, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


def stopping(report: DataSetReport) -> list[str]:
    """Kinds of problems that stop a training or an evaluation."""
    return [row['kind'] for row in report.tally.as_rows() if row['stops_training'] or row['stops_evaluation']]


def convert(source: Path, out: Path, kind: str, chance: random.Random) -> bool:
    """Convert a source, mostly with what the user has to say of its kind; returns whether boxes are kept as boxes."""
    form = chance.choice((None, 'masks' if kind == 'class masks' else kind.split()[0]))
    names = ['leaf'] if kind in NEED_NAMES else None
    options = ReadOptions(
        class_names=chance.choice((None, ['leaf', 'stem'])) if chance.random() < 0.1 else names,
        components=chance.choice((None, True, False)) if kind == 'masks' else False,
        exif=chance.choice((None, 'turned')),
        crowds_are_objects=chance.random() < 0.2,
        boxes=kind == 'voc-boxes' or chance.random() < 0.1,
    )
    conversion = LabelConversion(
        [source], options, form, max_left_out=chance.choice((0.1, 1, 1, 1)), merge=chance.random() < 0.3
    )
    conversion.check_target(out, overwrite=False)
    conversion.read()
    conversion.split(0.5, 0, None, resplit=chance.random() < 0.9)
    conversion.write(out)
    conversion.counts(), conversion.left_out_counts()
    return options.boxes


@pytest.fixture(scope='module')
def sound(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    root = tmp_path_factory.mktemp('sound')
    sources(root)
    files = {}
    for path in sorted(root.rglob('*.*')):
        if path.is_file():
            kind, _, name = path.relative_to(root).as_posix().partition('/')
            files.setdefault(kind, {})[name] = path.read_bytes()
    return files


def test_the_sources_are_sound(sound, tmp_path):
    assert {kind.split()[0] if kind != 'class masks' else 'masks' for kind in sound} == set(FORMATS)
    for kind, files in sound.items():
        put(tmp_path / kind, files)
        names = ['leaf'] if kind in NEED_NAMES else None
        options = ReadOptions(names, components=False, boxes=kind == 'voc-boxes')
        conversion = LabelConversion([tmp_path / kind], options)
        conversion.read()
        assert len(conversion.images) >= 2 and conversion.left_out.keys() <= {NOT_LEARNT}, kind


def test_a_damaged_source_is_a_sound_data_set_or_an_error_of_input(sound, tmp_path, capsys, monkeypatch):
    # The conversion reads headers of images, and not their pixels.
    monkeypatch.setattr('mmdet_sag.checks.full_check.image_problem', lambda *_: None)
    counts = dict.fromkeys(sound, 0)
    for seed in range(NUM_INPUTS):
        chance = random.Random(seed)
        kind = list(sound)[seed % len(sound)]
        files = dict(sound[kind])
        for path in chance.sample(list(files), chance.choice((1, 1, 2))):
            content = damaged(path, sound[kind], chance)
            if content is None:
                del files[path]
            else:
                files[path] = content
        source, target = tmp_path / 'in', tmp_path / 'out'
        put(source, files)
        target.mkdir()
        try:
            boxes = convert(source, target / 'data', kind, chance)
        except InputError as error:
            assert '\n' not in str(error), (seed, error)
            assert not list(target.iterdir()), (seed, error)
        else:
            assert [path.name for path in target.iterdir()] == ['data']
            for report in check_files(target / 'data', SPLITS):
                found = set(stopping(report)) - ({'missing-mask'} if boxes else set())
                assert not found, (seed, kind, report.tally.counts)
            counts[kind] += 1
        shutil.rmtree(source, ignore_errors=True)
        shutil.rmtree(target)
    with capsys.disabled():
        print(f'\n{NUM_INPUTS} damaged sources, converted: {counts}')
    assert all(counts.values())
