"""The full check finds every kind of broken data, and the repaired copy is sound."""

import copy
import json
import math
import os
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config
from PIL import Image

from mmdet_sag.checks import PROBLEM_KINDS, check_data_sets, check_files, check_inputs, repair_coco, write_coco
from mmdet_sag.checks.problem_kinds import Stops
from mmdet_sag.errors import InputError

# The polygon of the first annotation is the box from (5, 6) to (25, 22).
SQUARE = [5, 6, 25, 6, 25, 22, 5, 22]
# The runs of a mask that is larger than the images here.
LARGER = mask_utils.encode(np.asfortranarray(np.tri(480, 640, dtype=np.uint8)))['counts'].decode()


def _report(data, splits=('train',)):
    data.write()
    return check_data_sets(data.config, splits, workers=2)[0]


def _repaired(data):
    report = _report(data)
    content, done = repair_coco(report.content, report.bad_images)
    data.content = content
    return content, done


BROKEN_ANNOTATIONS = [
    ('missing-iscrowd', dict(iscrowd=None)),
    ('bad-iscrowd', dict(iscrowd=2)),
    ('missing-area', dict(area=None)),
    ('missing-box', dict(bbox=None)),
    ('unknown-image', dict(image_id=99)),
    ('unknown-category', dict(category_id=99)),
    ('malformed-box', dict(bbox='5 5 8 8')),
    ('malformed-box', dict(bbox=[5, 5, True, 8])),
    ('non-finite-box', dict(bbox=[5, 5, math.inf, 8])),
    ('empty-box', dict(bbox=[5, 5, 0, 8])),
    ('empty-box', dict(bbox=[5, 5, -3, 8])),
    ('sub-pixel-box', dict(bbox=[5, 5, 0.5, 8])),
    ('box-outside-image', dict(bbox=[64, 5, 8, 8])),
    ('box-over-border', dict(bbox=[60, 5, 8, 8])),
    ('bad-area', dict(area=math.nan)),
    ('zero-area', dict(area=0)),
    ('missing-mask', dict(segmentation=None)),
    ('missing-mask', dict(segmentation=[])),
    ('malformed-mask', dict(segmentation='polygon')),
    ('malformed-mask', dict(segmentation=SQUARE)),
    ('odd-polygon', dict(segmentation=[SQUARE[:-1]])),
    ('short-polygon', dict(segmentation=[[5, 6, 25, 22]])),
    ('short-polygon', dict(segmentation=[[]])),
    ('non-finite-polygon', dict(segmentation=[[5, 6, 25, 6, 25, math.nan]])),
    ('non-finite-polygon', dict(segmentation=[[5, 6, 25, 6, -math.inf, 9]])),
    ('non-finite-polygon', dict(segmentation=[[5, 6, 25, 6, 1e9, 9]])),
    ('polygon-outside-image', dict(segmentation=[[70, 6, 90, 6, 90, 22]])),
    ('polygon-outside-image', dict(segmentation=[[5, -9, 9, -9, 9, -1]])),
    ('rle-size-mismatch', dict(segmentation=dict(size=[64, 48], counts=[0, 64 * 48]))),
    ('undecodable-rle', dict(segmentation=dict(size=[48, 64], counts=[10, 20]))),
    ('undecodable-rle', dict(segmentation=dict(size=[48, 64], counts=[-10, 48 * 64 + 10]))),
    ('undecodable-rle', dict(segmentation=dict(size=[48, 64], counts='not an RLE'))),
    ('undecodable-rle', dict(segmentation=dict(size=[48, 64], counts='\u00e9'))),
    ('undecodable-rle', dict(segmentation=dict(size=[48, 64], counts=''))),
    # More runs than pixels: pycocotools writes beyond the mask.
    ('undecodable-rle', dict(segmentation=dict(size=[48, 64], counts=LARGER))),
    ('malformed-mask', dict(segmentation=dict(size=48, counts='x'))),
    ('empty-mask', dict(segmentation=dict(size=[48, 64], counts=[48 * 64]))),
    ('crowd-with-polygons', dict(iscrowd=1)),
]


def _break(annotation, changes):
    for key, value in changes.items():
        if value is None:
            del annotation[key]
        else:
            annotation[key] = value


@pytest.mark.parametrize(('kind', 'changes'), BROKEN_ANNOTATIONS)
def test_a_broken_annotation_is_found_and_repaired(data, kind, changes):
    _break(data.annotation, changes)
    report = _report(data)
    assert report.tally.counts == {kind: 1}
    assert report.tally.examples == {kind: ['annotation 1']}
    assert report.is_clean == PROBLEM_KINDS[kind].notice

    _repaired(data)
    # What a person alone can judge stays as it is.
    assert set(_report(data).tally.counts) == ({kind} if not PROBLEM_KINDS[kind].fix else set())
    check_inputs(data.config, 'train')


@pytest.mark.parametrize(
    ('kind', 'changes'), [pair for pair in BROKEN_ANNOTATIONS if Stops.TRAINING not in PROBLEM_KINDS[pair[0]].stops]
)
def test_what_is_not_refused_for_training_loads(data, kind, changes):
    _break(data.annotation, changes)
    data.write()
    dataset = DATASETS.build(data.train_set)
    assert [len(dataset[index]['data_samples'].gt_instances) for index in range(3)][1:] == [2, 2]


@pytest.mark.parametrize(
    ('kind', 'changes'), [pair for pair in BROKEN_ANNOTATIONS if Stops.EVALUATION not in PROBLEM_KINDS[pair[0]].stops]
)
def test_what_is_not_refused_for_evaluation_loads_and_is_measured(data, kind, changes):
    _break(data.annotation, changes)
    data.write()
    dataset = DATASETS.build(data.config.val_dataloader.dataset)
    metric = METRICS.build(data.config.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    image = np.asfortranarray(np.zeros((48, 64), np.uint8))
    image[6:22, 5:25] = 1
    for index in range(3):
        sample = dataset[index]['data_samples']
        found = dict(
            bboxes=torch.tensor([[5.0, 6, 25, 22]]),
            scores=torch.tensor([0.9]),
            labels=torch.tensor([0]),
            masks=torch.from_numpy(image[None]).bool(),
        )
        metric.process({}, [dict(img_id=sample.img_id, ori_shape=(48, 64), pred_instances=found)])
    assert metric.evaluate(3)['coco/segm_mAP'] > 0


def test_an_annotation_without_ids_is_found_and_removed(data):
    for key in ('id', 'image_id', 'category_id'):
        data.content['annotations'].append({k: v for k, v in data.annotation.items() if k != key})
    data.content['annotations'].append('annotation')
    assert _report(data).tally.counts == {'annotation-malformed': 4}
    content, done = _repaired(data)
    assert len(content['annotations']) == 7
    assert done == {'annotations removed: annotation-malformed': 4}


def test_broken_images_are_found_and_removed_with_their_annotations(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(4, 9):
        data.content['images'].append(dict(id=number, file_name=f'{number}.jpg', width=64, height=48))
        data.content['annotations'].append(dict(data.annotation, id=100 + number, image_id=number))
        if number != 4:
            Image.effect_noise((64, 48), 50).save(data.image_folder / f'{number}.jpg')
    truncated = data.image_folder / '5.jpg'
    truncated.write_bytes(truncated.read_bytes()[:-500])
    (data.image_folder / '6.jpg').write_text('text')
    Image.new('RGB', (48, 64)).save(data.image_folder / '7.jpg')
    Image.new('RGB', (64, 48)).save(data.image_folder / '8.jpg', exif=exif)

    report = _report(data)
    assert report.bad_images == {
        4: 'missing-image',
        5: 'undecodable-image',
        6: 'undecodable-image',
        7: 'image-size-mismatch',
        8: 'exif-rotated-image',
    }
    assert report.tally.examples['undecodable-image'] == ['5.jpg', '6.jpg']
    content, done = _repaired(data)
    assert [image['id'] for image in content['images']] == [1, 2, 3]
    assert len(content['annotations']) == 7
    assert done['annotations removed: unknown-image'] == 5
    assert _report(data).is_clean


def test_an_image_turned_by_exif_agrees_with_the_size_it_is_seen_in(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (48, 64)).save(data.image_folder / '1.png', exif=exif)
    assert _report(data).is_clean


@pytest.mark.parametrize(('orientation', 'size'), [(3, (64, 48)), (2, (64, 48)), (6, (48, 48))])
def test_an_image_that_exif_turns_without_a_change_of_size_is_noticed_and_kept(data, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new('RGB', size).save(data.image_folder / '1.png', exif=exif)
    data.content['images'][0].update(width=size[0], height=size[1])
    report = _report(data)
    assert report.tally.examples == {'exif-turned-image': ['1.png']}
    assert report.is_clean
    assert not report.bad_images
    check_inputs(data.config, 'train')


def test_double_images_are_found_and_the_later_one_removed(data):
    data.content['images'] += [
        dict(data.content['images'][0], file_name='3.png'),
        dict(data.content['images'][0], id=9),
        dict(id=10, file_name='', width=64, height=48),
        dict(id=11, file_name='1.png', width='64', height=48),
    ]
    report = _report(data)
    assert report.tally.counts == {'image-entry-malformed': 2, 'duplicate-image-id': 1, 'duplicate-file-name': 1}
    content, _ = _repaired(data)
    assert [image['id'] for image in content['images']] == [1, 2, 3, 9]


def test_equal_annotations_of_one_id_become_one_and_others_get_an_id_of_their_own(data):
    data.content['annotations'] += [dict(data.annotation), dict(data.annotation, image_id=2)]
    assert _report(data).tally.counts == {'duplicate-annotation-id': 2}
    content, _ = _repaired(data)
    assert [annotation['id'] for annotation in content['annotations']] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert content['annotations'][-1]['image_id'] == 2


def test_ids_that_some_programs_count_wrong_are_named_and_replaced(data):
    data.content['annotations'][0]['id'] = 0
    data.content['annotations'][1]['id'] = 'one'
    data.content['annotations'].append(dict(data.content['annotations'][1]))
    report = _report(data)
    assert report.tally.counts == {'uncountable-annotation-id': 3, 'duplicate-annotation-id': 1}
    assert report.tally.examples['uncountable-annotation-id'][0] == 'annotation 0'
    content, done = _repaired(data)
    assert [annotation['id'] for annotation in content['annotations']] == [8, 9, 3, 4, 5, 6, 7]
    assert done == {
        'annotations repaired: uncountable-annotation-id': 2,
        'annotations removed: duplicate-annotation-id, the same again': 1,
    }


def test_category_problems_are_found(data):
    data.content['categories'] = [dict(id=1, name='dog'), dict(id=1, name='horse'), dict(id=2, name='dog'), dict(id=3)]
    assert _report(data).tally.counts == {
        'category-malformed': 1,
        'duplicate-category-id': 1,
        'duplicate-category-name': 1,
        'class-not-in-file': 1,
        'category-not-in-config': 1,
    }


@pytest.mark.parametrize('category_id', [[1], {}, None, True])
def test_a_category_whose_id_is_none_is_found_and_left(data, category_id):
    data.content['categories'].append(dict(id=category_id, name='bird'))
    assert _report(data).tally.counts == {'category-malformed': 1}
    assert _repaired(data)[0]['categories'][-1] == dict(id=category_id, name='bird')


def test_a_broken_box_and_area_are_computed_from_the_mask(data):
    data.annotation.update(bbox=[1, 1, 0, 0], area=math.nan)
    content, done = _repaired(data)
    assert content['annotations'][0]['bbox'] == [5, 6, 20, 16]
    assert content['annotations'][0]['area'] == 20 * 16
    assert done == {'annotations repaired: empty-box': 1, 'annotations repaired: bad-area': 1}


def test_a_box_over_the_border_is_clipped(data):
    data.annotation['bbox'] = [-10, 6, 200, 16]
    content, _ = _repaired(data)
    assert content['annotations'][0]['bbox'] == [0, 6, 64, 16]


def test_objects_without_mask_stay_where_they_are_learnt_from_boxes(data):
    data.train_set.pipeline[1].type = 'LoadMaskOrBoxAnnotations'
    for annotation in data.content['annotations'][:2]:
        del annotation['segmentation']
    data.content['annotations'][1]['bbox'] = [5, 5, 0, 8]
    report = _report(data)
    assert report.tally.counts == {'empty-box': 1}
    content, done = repair_coco(report.content, report.bad_images, boxes_suffice=report.source.boxes_suffice)
    # Neither a box nor a mask: nothing to learn from.
    assert done == {'annotations removed: empty-box': 1}
    assert content['annotations'][0] == data.annotation


def test_masks_that_are_left_out_are_neither_checked_nor_repaired(data):
    data.train_set.pipeline[1].update(type='LoadMaskOrBoxAnnotations', boxes_only=True)
    data.annotation['segmentation'] = 'nothing'
    report = _report(data)
    assert report.tally.counts == {}
    content, done = repair_coco(report.content, report.bad_images, report.masks_needed)
    assert content['annotations'][0] == data.annotation and done == {}


def test_only_the_broken_polygons_of_a_mask_are_removed(data):
    data.annotation['segmentation'] = [[1, 2], SQUARE, [1, 2, 3, 4, 5, 6, 7], [100, 100, 120, 100, 120, 120]]
    content, done = _repaired(data)
    assert content['annotations'][0]['segmentation'] == [SQUARE]
    assert done == {
        'polygons removed: short-polygon': 1,
        'polygons removed: odd-polygon': 1,
        'polygons removed: polygon-outside-image': 1,
    }


def test_repair_leaves_sound_data_and_its_source_as_they_are(data):
    report = _report(data)
    before = copy.deepcopy(report.content)
    content, done = repair_coco(report.content, report.bad_images)
    assert content == before == report.content
    assert done == {}
    # pandas writes NaN where a value is missing.
    content['images'][0]['license'] = math.nan
    write_coco(content, str(data.root / 'fixed.json'), [str(data.ann_file)])
    assert json.dumps(content) == (data.root / 'fixed.json').read_text()


def test_repair_does_not_change_what_it_reads(data):
    data.annotation.update(bbox=[1, 1, 0, 0], segmentation=[[1, 2], SQUARE])
    report = _report(data)
    before = copy.deepcopy(report.content)
    repair_coco(report.content, report.bad_images)
    assert report.content == before


def test_a_data_set_named_twice_is_checked_once(data):
    reports = check_data_sets(data.config, ['train', 'val', 'test'])
    assert [report.options for report in reports] == [
        ['train_dataloader.dataset', 'val_dataloader.dataset', 'test_dataloader.dataset']
    ]


@pytest.mark.parametrize('link', [os.link, os.symlink, lambda source, path: None], ids=['hard', 'soft', 'same path'])
def test_a_source_is_never_overwritten(data, link):
    before = data.ann_file.read_bytes()
    path = data.root / 'link.json'
    link(data.ann_file, path)
    with pytest.raises(InputError, match='which stays as it is: name another file'):
        write_coco({}, str(path if path.exists() else data.ann_file), [str(data.ann_file)])
    assert data.ann_file.read_bytes() == before


def test_a_copy_that_fails_leaves_nothing_behind(data, monkeypatch):
    path = data.root / 'fixed.json'
    path.write_text('old')
    before = sorted(os.listdir(data.root))

    def full_disk(content, file):
        file.write('{')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('json.dump', full_disk)
    with pytest.raises(InputError, match='cannot be written .No space left'):
        write_coco(data.content, str(path), [str(data.ann_file)])
    assert path.read_text() == 'old'
    assert sorted(os.listdir(data.root)) == before


def test_a_copy_into_a_missing_folder_is_refused(data):
    with pytest.raises(InputError, match='No such file or directory.*name a file in a folder'):
        write_coco(data.content, str(data.root / 'nowhere/fixed.json'), [str(data.ann_file)])


def test_real_images_and_annotations_of_coco_are_clean():
    root = Path(__file__).parents[2]
    folder = Path(os.environ.get('MMDET_SAG_COCO_TINY', root.parent / 'shared/data/coco_tiny'))
    if not folder.is_dir():
        pytest.skip('needs the tiny part of COCO: set MMDET_SAG_COCO_TINY to its folder')
    config = Config.fromfile(root / 'configs/centermask_lite/centermask-lite_v19-slim_fpn_coco-tiny.py')
    for split in ('train', 'val'):
        config[f'{split}_dataloader'].dataset.data_root = f'{folder}/'
    reports = check_data_sets(config, ['train', 'val'])
    assert [(len(r.content['images']), len(r.content['annotations'])) for r in reports] == [(80, 705), (80, 815)]
    assert [r.tally.counts for r in reports] == [{}, {}]


def test_a_report_is_plain_json(data):
    data.annotation['area'] = 0
    report = json.loads(json.dumps(_report(data).as_dict()))
    assert report['options'] == ['train_dataloader.dataset']
    assert (report['images'], report['annotations'], report['categories'], report['clean']) == (3, 7, 2, False)
    assert [(p['kind'], p['count'], p['examples']) for p in report['problems']] == [('zero-area', 1, ['annotation 1'])]


def test_a_folder_is_checked_as_a_config_of_its_files_is(data):
    data.annotation['bbox'] = [5, 5, 0, 8]
    (data.image_folder / '2.png').unlink()
    data.write()
    (report,) = check_files(data.root, ['train'])
    assert report.tally.counts == _report(data).tally.counts == {'empty-box': 1, 'missing-image': 1}
    assert check_files(data.ann_file, ['train'])[0].bad_images == report.bad_images == {2: 'missing-image'}


def test_files_are_found_as_to_coco_writes_them_and_chosen_by_their_split(data):
    (data.root / 'annotations').mkdir()
    for split in ('train', 'val'):
        (data.root / f'annotations/instances_{split}.json').write_text(data.ann_file.read_text())
    data.ann_file.unlink()
    data.image_folder.rename(data.root / 'train')
    with pytest.raises(InputError, match=r"instances_val\.json' are not beside it: give --images DIR"):
        check_files(data.root, ['train', 'val'])
    assert [report.options for report in check_files(data.root, ['train', 'test'])] == [['train']]
    reports = check_files(data.root, ['train', 'val'], images=data.root / 'train')
    assert [report.is_clean for report in reports] == [True, True]


@pytest.mark.parametrize(
    'name, message',
    [
        ('absent.json', 'does not exist: give a config, or the folder or annotation file'),
        ('images', r"has no annotation file in COCO's format for train: convert .* with mmdet-sag convert-data"),
        ('cut.json', 'is not valid JSON'),
        # Beside a sound one.
        ('.', r"cut\.json': is not valid JSON"),
    ],
)
def test_what_is_no_data_set_is_refused_with_what_to_do(data, name, message):
    (data.root / 'cut.json').write_text('{"images": [')
    with pytest.raises(InputError, match=message):
        check_files(data.root / name, ['train'])
