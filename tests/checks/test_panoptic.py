import json

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from support.tiny_panoptic import shapes_config, write_shapes

from mmdet_sag.checks import check_data_sets, check_inputs
from mmdet_sag.errors import InputError


class Case:
    """A sound panoptic data set and its config, for tests to break."""

    def __init__(self, root):
        self.root = root
        write_shapes(root, num_train=3, num_val=2)
        self.config = shapes_config(root)

    def png(self, split='train', name='000002.png'):
        return self.root / f'annotations/panoptic_{split}2017' / name

    def edit(self, change, split='train', kind='panoptic'):
        path = self.root / f'annotations/{kind}_{split}2017.json'
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    def refusal(self, mode='train'):
        with pytest.raises(InputError) as error:
            check_inputs(Config(self.config.to_dict()), mode)
        message = str(error.value)
        assert len(message.splitlines()) == 1
        return message


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path / 'data')


def segment(content, entry=1, place=0):
    return content['annotations'][entry]['segments_info'][place]


def test_sound_data_pass(case):
    check_inputs(case.config, 'train')
    check_inputs(case.config, 'test')


BROKEN_FILES = {
    'duplicate-panoptic-entry': lambda c: c['annotations'].append(c['annotations'][1]),
    'missing-panoptic-entry': lambda c: c['annotations'].pop(1),
    'panoptic-entry-malformed': lambda c: segment(c).pop('area'),
    'unknown-segment-category': lambda c: segment(c).update(category_id=99),
    'impossible-segment-id': lambda c: segment(c).update(id=256**3),
    'duplicate-segment-id': lambda c: segment(c).update(id=segment(c, place=1)['id']),
    'category-kind-unknown': lambda c: c['categories'][0].pop('isthing'),
    'category-kind-differs': lambda c: c['categories'][0].update(isthing=0),
    'class-not-in-file': lambda c: c['categories'][7].update(name='moss'),
    'duplicate-category-name': lambda c: c['categories'].append(dict(c['categories'][7], id=77)),
}


@pytest.mark.parametrize('kind', BROKEN_FILES)
def test_a_broken_file_is_refused_and_the_full_check_tells_what_it_has(case, kind):
    case.edit(BROKEN_FILES[kind])
    message = case.refusal()
    assert 'panoptic_train2017.json' in message
    assert 'train_dataloader.dataset.panoptic_ann_file=FILE' in message
    (report,) = check_data_sets(case.config, ['train'])
    assert kind in report.tally.counts


def break_png(case, kind):
    png = case.png()
    pixels = cv2.imread(str(png))
    if kind == 'missing-png':
        png.unlink()
    elif kind == 'undecodable-png':
        png.write_bytes(png.read_bytes()[:30])
    elif kind == 'png-size-mismatch':
        cv2.imwrite(str(png), pixels[:-1])
    else:
        # One segment gets a colour that is listed nowhere, or that of another segment.
        colours, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
        there = (pixels == colours[0]).all(axis=2)
        pixels[there] = (1, 2, 3) if kind == 'colour-without-segment' else colours[1]
        cv2.imwrite(str(png), pixels)


@pytest.mark.parametrize(
    'kind', ['missing-png', 'undecodable-png', 'png-size-mismatch', 'colour-without-segment', 'empty-segment']
)
def test_a_broken_png_is_found(case, kind):
    break_png(case, kind)
    (report,) = check_data_sets(case.config, ['train'], workers=2)
    assert kind in report.tally.counts
    assert not report.is_clean
    if kind == 'empty-segment':
        # Training is the same without it, and only an evaluation would count it as missed.
        check_inputs(case.config, 'train')
    else:
        assert '000002.png' in case.refusal()


def test_a_segment_without_pixels_is_refused_by_an_evaluation(case):
    case.edit(lambda c: c['annotations'][0]['segments_info'].append(dict(segment(c, 0), id=4711)), split='val')
    assert 'segment 4711 of 000001.png' in case.refusal('test')


def test_missing_files_and_folders_are_named(case):
    case.config.train_dataloader.dataset.panoptic_ann_file = 'annotations/absent.json'
    assert 'train_dataloader.dataset.panoptic_ann_file=FILE' in case.refusal()
    case.config.test_dataloader.dataset.data_prefix.seg = 'absent'
    assert 'test_dataloader.dataset.data_prefix.seg=DIR' in case.refusal('test')


def test_the_files_of_the_metric_are_looked_at(case):
    metric = case.config.test_evaluator[1]
    metric.seg_prefix = 'absent'
    assert 'test_evaluator.1.seg_prefix=' in case.refusal('test')
    metric.ann_file = 'absent.json'
    assert 'test_evaluator.1.ann_file=' in case.refusal('test')
    case.edit(lambda c: c['annotations'].pop())
    metric.update(ann_file=str(case.root / 'annotations/panoptic_train2017.json'), seg_prefix='')
    case.edit(lambda c: [e.update(image_id=e['image_id'] + 50) for e in c['annotations']])
    assert 'lists others' in case.refusal('test')


def test_class_counts_of_the_heads_are_compared(case):
    case.config.model.semantic_head.num_stuff_classes = 53
    assert 'model.semantic_head.num_stuff_classes=5' in case.refusal()
    case.config.model.semantic_head.num_stuff_classes = 5
    case.config.model.bbox_head.num_classes = 80
    assert 'model.bbox_head.num_classes is 80, but train_dataloader.dataset has 6 classes' in case.refusal()


def test_things_come_before_stuff_in_the_classes(case):
    info = case.config.train_dataloader.dataset.metainfo
    info.classes = (*info.stuff_classes, *info.thing_classes)
    assert 'thing_classes and then its stuff_classes' in case.refusal()


def test_a_panoptic_model_does_not_train_on_instances_alone(case):
    dataset = case.config.train_dataloader.dataset
    del dataset['panoptic_ann_file']
    dataset.update(type='CocoDataset', metainfo=dict(classes=dataset.metainfo.thing_classes))
    assert 'set its type to CocoInstancePanopticDataset' in case.refusal()


def test_a_panoptic_model_needs_a_semantic_target(case):
    case.config.train_dataloader.dataset.pipeline[1].type = 'LoadAnnotations'
    assert 'LoadInstancesAndPanopticSeg' in case.refusal()


def test_what_needs_panopticapi_says_so_where_it_is_missing(case, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    case.config.test_evaluator[1].type = 'CocoPanopticMetric'
    assert 'pip install --no-deps panopticapi-lite' in case.refusal('test')
    case.config.train_dataloader.dataset.pipeline[1].type = 'mmdet.LoadPanopticAnnotations'
    assert 'or use LoadInstancesAndPanopticSeg' in case.refusal()
