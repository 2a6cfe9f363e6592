"""Annotations are checked as training and evaluation read them."""

import argparse
import json

import pytest
from mmdet.registry import DATASETS
from mmengine.config import DictAction
from mmengine.structures import InstanceData
from support.tiny_data_set import HEIGHT, WIDTH
from support.tiny_semi import semi_rectangles_config
from support.tiny_training import write_rectangles

from mmdet_sag.checks import check_data_sets, check_inputs
from mmdet_sag.checks.data import checked_annotations
from mmdet_sag.checks.problem_kinds import ProblemTally
from mmdet_sag.datasets.annotation_problems import usable_images
from mmdet_sag.errors import InputError

BITMAP = dict(size=[HEIGHT, WIDTH], counts=[10 * HEIGHT, 8 * HEIGHT, (WIDTH - 18) * HEIGHT])


@pytest.fixture
def polygons(data):
    """The data set with a pipeline that keeps polygons."""
    load = next(transform for transform in data.train_set.pipeline if transform.type == 'LoadAnnotations')
    load.poly2mask = False
    return data


def objects(data) -> list[InstanceData]:
    dataset = DATASETS.build(data.train_set)
    return [dataset[index]['data_samples'].gt_instances for index in range(len(dataset))]


def remedy(error: InputError) -> str:
    return next(word for word in str(error).split() if 'poly2mask' in word and '=True' in word).rstrip(',')


def test_polygons_and_a_crowd_as_rle_pass(polygons):
    check_inputs(polygons.config, 'train')
    assert [len(instances) for instances in objects(polygons)] == [2, 2, 2]


@pytest.mark.parametrize('share', ['one', 'all'])
def test_an_object_as_rle_is_refused_with_the_option_that_keeps_it(polygons, share):
    annotations = [a for a in polygons.content['annotations'] if not a['iscrowd']]
    for annotation in annotations[1:2] if share == 'one' else annotations:
        annotation['segmentation'] = BITMAP
    polygons.write()
    assert len(objects(polygons)[0]) == (1 if share == 'one' else 0), 'MMDetection ignores the object'
    count = 1 if share == 'one' else len(annotations)
    with pytest.raises(InputError, match=rf'annotations\.json.: {count} objects whose mask is an RLE') as refusal:
        check_inputs(polygons.config, 'train')
    assert f'e.g. annotation {2 if share == "one" else 1}: set --cfg-options train_dataloader' in str(refusal.value)
    assert '\n' not in str(refusal.value)

    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    polygons.config.merge_from_dict(parser.parse_args(['--cfg-options', remedy(refusal.value)]).cfg_options)
    check_inputs(polygons.config, 'train')
    assert [len(instances) for instances in objects(polygons)] == [2, 2, 2]


def test_bitmaps_pass_where_they_are_asked_for(data):
    for annotation in data.content['annotations']:
        annotation['segmentation'] = BITMAP
    data.write()
    check_inputs(data.config, 'train')
    check_inputs(data.config, 'test')
    assert [len(instances) for instances in objects(data)] == [2, 2, 2]


def test_the_option_is_found_inside_wrappers(polygons):
    polygons.annotation['segmentation'] = BITMAP
    polygons.write()
    inner = polygons.train_set
    polygons.config.train_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[inner])
    )
    with pytest.raises(InputError, match=r'train_dataloader\.dataset\.dataset\.datasets\.0\.pipeline\.1\.poly2mask'):
        check_inputs(polygons.config, 'train')


@pytest.mark.parametrize('changes', [dict(bbox=[5, 5, 0, 8]), dict(area=0), dict(ignore=True)], ids=str)
def test_an_object_that_training_skips_anyway_does_not_matter(polygons, changes):
    polygons.annotation.update(segmentation=BITMAP, **changes)
    polygons.write()
    polygons.config.val_cfg = polygons.config.val_dataloader = polygons.config.val_evaluator = None
    check_inputs(polygons.config, 'train')


def test_a_class_that_is_not_learnt_does_not_matter(polygons):
    polygons.content['categories'].append(dict(id=3, name='bird'))
    polygons.annotation.update(segmentation=BITMAP, category_id=3)
    polygons.write()
    check_inputs(polygons.config, 'train')


def test_data_for_evaluation_may_hold_bitmaps(polygons):
    for phase in ('val', 'test'):
        pipeline = polygons.config[f'{phase}_dataloader'].dataset.pipeline
        next(transform for transform in pipeline if transform.type == 'LoadAnnotations').poly2mask = False
    path = polygons.root / 'val.json'
    content = json.loads(polygons.ann_file.read_text())
    for annotation in content['annotations']:
        annotation['segmentation'] = BITMAP
    path.write_text(json.dumps(content))
    for phase in ('val', 'test'):
        polygons.config[f'{phase}_dataloader'].dataset.ann_file = path.name
        polygons.config[f'{phase}_evaluator'].ann_file = str(path)
    check_inputs(polygons.config, 'train')
    check_inputs(polygons.config, 'test')


def test_the_full_check_lists_such_objects(polygons):
    polygons.annotation['segmentation'] = BITMAP
    polygons.write()
    (report,) = check_data_sets(polygons.config, ['train', 'val'])
    assert report.tally.counts == {'rle-object': 1}
    assert report.tally.examples == {'rle-object': ['annotation 1']}
    assert not report.is_clean
    (report,) = check_data_sets(polygons.config, ['val'])
    assert report.is_clean


def checked(content, tally=None, **options) -> list[tuple]:
    """Ids of annotations with their problems."""
    images, _ = usable_images(content['images'])
    found = checked_annotations(content, images, ProblemTally() if tally is None else tally, **options)
    return [(annotation['id'], problems) for annotation, problems in found]


def test_problems_of_one_annotation_are_yielded_and_those_of_several_counted(data):
    data.content['images'][0]['width'] = 0
    data.content['annotations'][2]['bbox'] = [1, 1, 0, 0]
    data.content['annotations'] += [dict(data.content['annotations'][2]), 'text']
    tally = ProblemTally()
    assert checked(data.content, tally) == [
        (1, ['unknown-image']),
        (2, ['unknown-image']),
        (3, ['empty-box']),
        *((i, []) for i in (4, 5, 6, 7)),
        (3, ['empty-box']),
    ]
    assert tally.counts == {'duplicate-annotation-id': 1, 'annotation-malformed': 1}
    assert tally.examples['duplicate-annotation-id'] == ['annotation 3']
    assert tally.examples['annotation-malformed'] == ['entry 8']


@pytest.mark.parametrize(('num_decoded', 'num_found'), [(None, 6), (3, 3), (1, 1)])
def test_masks_are_decoded_in_a_sample_spread_over_the_file(data, num_decoded, num_found):
    annotations = [a for a in data.content['annotations'] if not a['iscrowd']]
    for annotation in annotations:
        annotation['segmentation'] = dict(size=[48, 64], counts='garbage')
    data.content['annotations'] = annotations
    found = checked(data.content, num_decoded=num_decoded)
    assert sum(problems == ['undecodable-rle'] for _, problems in found) == num_found


def test_polygons_only_takes_rle_for_crowds_alone(data):
    data.annotation['segmentation'] = data.content['annotations'][-1]['segmentation']
    for polygons_only, expected in ((False, []), (True, [(1, ['rle-object'])])):
        found = checked(data.content, polygons_only=polygons_only)
        assert [item for item in found if item[1]] == expected


def test_unlabelled_images_need_no_labels_and_labelled_ones_do(tmp_path):
    write_rectangles(tmp_path)
    content = json.loads((tmp_path / 'annotations.json').read_text())
    (tmp_path / 'none.json').write_text(json.dumps({**content, 'annotations': []}))
    config = semi_rectangles_config(tmp_path)
    labelled, unlabelled = config.train_dataloader.dataset.datasets
    unlabelled.ann_file = 'none.json'
    check_inputs(config, 'train')
    labelled.ann_file = 'none.json'
    with pytest.raises(InputError, match='data set is empty'):
        check_inputs(config, 'train')


def test_missing_unlabelled_images_are_named(tmp_path):
    write_rectangles(tmp_path)
    config = semi_rectangles_config(tmp_path)
    config.train_dataloader.dataset.datasets[1].data_prefix.img = 'elsewhere/'
    with pytest.raises(InputError, match='elsewhere'):
        check_inputs(config, 'train')
