"""Readers of tools' files meet damaged ones: data, notes or one error of input, and no other exception."""

import copy
import json
import random

import pytest
import test_cvat
import test_label_studio
import test_via

from mmdet_sag.datasets.converters.cvat import is_cvat, read_cvat
from mmdet_sag.datasets.converters.label_studio import is_label_studio, read_label_studio
from mmdet_sag.datasets.converters.labelled_data import ReadOptions
from mmdet_sag.datasets.converters.via import is_via, read_via
from mmdet_sag.errors import InputError

ODD = [None, True, -1, 0, 10**30, 1e308, float('nan'), '', 'x', '1e9', [], {}, [[]], [None], {'a': []}, [[1, 2], [3]]]
TEXTS = ['', 'x', '-1', '0', '1e308', '9' * 30, '9' * 5000, 'nan', '1,2', ';', '\u0661', '&#x41;', '<a/>']


def damaged_json(content, chance):
    """A copy in which one value is gone or another one; sometimes cut text."""
    content = json.loads(json.dumps(content))
    for _ in range(chance.choice((1, 1, 3))):
        place = content
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            if not keys:
                break
            key = chance.choice(list(keys))
            if isinstance(place[key], dict | list) and place[key] and chance.random() < 0.85:
                place = place[key]
            elif chance.random() < 0.2:
                del place[key]
                break
            else:
                place[key] = copy.deepcopy(chance.choice(ODD))
                break
    text = json.dumps(content)
    return text[: chance.randrange(len(text))] if chance.random() < 0.1 else text


def damaged_xml(text, chance):
    if chance.random() < 0.1:
        return text[: chance.randrange(len(text))]
    for _ in range(chance.choice((1, 1, 3))):
        start = chance.choice([place for place, letter in enumerate(text) if letter in '",;>'])
        stop = start + chance.randrange(12)
        text = text[: start + 1] + chance.choice(TEXTS) + text[stop:]
    return text


def cases(chance):
    yield is_via, read_via, test_via.put, chance.choice((test_via.project(), test_via.version_1())), 'via.json'
    task = test_label_studio.task(test_label_studio.annotation(test_label_studio.RESULTS))
    yield is_label_studio, read_label_studio, test_label_studio.put, task, 'project-1-at-2024-05-02.json'


@pytest.mark.parametrize('start', [0, 1000])
def test_damaged_files_are_data_or_an_error_of_input(start, tmp_path):
    read = 0
    test_cvat.put(tmp_path / 'cvat')
    for seed in range(start, start + 150):
        chance = random.Random(seed)
        options = ReadOptions(class_names=chance.choice((None, None, ['x'])))
        trials = []
        for recognises, reader, put, content, name in cases(chance):
            root = put(tmp_path / reader.__name__, content)
            text = damaged_json([content] if reader is read_label_studio else content, chance)
            (root / name).write_text(text)
            trials.append((recognises, reader, root))
        (tmp_path / 'cvat/annotations.xml').write_text(damaged_xml(test_cvat.EXPORT, chance))
        trials.append((is_cvat, read_cvat, tmp_path / 'cvat'))
        for recognises, reader, root in trials:
            try:
                if recognises(root):
                    data = reader(root, options)
                    read += bool(data.images)
                    json.dumps([item.segmentation for image in data.images for item in image.objects])
            except InputError as error:
                assert '\n' not in str(error)
    assert read > 150
