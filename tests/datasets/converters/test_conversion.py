"""Labels of every form end as the same COCO files, and what cannot be understood is one line."""

import copy
import json

import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmengine.registry import init_default_scope
from PIL import Image
from support.label_exports import write_labelme, write_yolo

from mmdet_sag.datasets.converters import Conversion, ReadOptions
from mmdet_sag.errors import InputError


def convert(out, *sources, options=None, format=None, val=0.25, group_by=None, anew=False, **changes):
    conversion = Conversion(sources, options or ReadOptions(), format)
    conversion.check_target(out, overwrite=changes.pop('overwrite', False))
    conversion.read()
    if 'rename' in changes:
        conversion.rename(changes['rename'])
    if 'classes' in changes:
        conversion.choose(changes['classes'])
    conversion.split(val, 0, group_by, anew)
    conversion.write(out, changes.get('link', False))
    return conversion


def content(out, split):
    return json.loads((out / f'annotations/instances_{split}.json').read_text())


def objects(file):
    """Objects that are no crowd by file name, each as class, box, area and polygons."""
    names = {category['id']: category['name'] for category in file['categories']}
    images = {image['id']: image['file_name'] for image in file['images']}
    found = {name: [] for name in images.values()}
    for item in file['annotations']:
        if not item['iscrowd']:
            row = (names[item['category_id']], item['bbox'], item['area'], item['segmentation'])
            found[images[item['image_id']]].append(row)
    return found


def mask_targets(file, root, folder, classes):
    """What the pipeline of the zoo hands to a model: bitmaps, boxes and labels by image."""
    init_default_scope('mmdet')
    path = root / 'targets.json'
    without_crowds = dict(file, annotations=[item for item in file['annotations'] if not item['iscrowd']])
    path.write_text(json.dumps(without_crowds))
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='PackDetInputs', meta_keys=('img_path',)),
    ]
    dataset = CocoDataset(
        ann_file=str(path), data_prefix=dict(img=str(folder)), metainfo=dict(classes=classes), pipeline=pipeline
    )
    for sample in dataset:
        truth = sample['data_samples'].gt_instances
        yield sample['inputs'].numpy(), truth.masks.masks, truth.bboxes.tensor.numpy(), truth.labels.numpy()


@pytest.mark.parametrize('write', [write_yolo, write_labelme])
def test_labels_of_other_tools_give_the_same_objects_and_targets_as_the_original(write, demo_parts, tmp_path):
    write(tmp_path / 'labels', demo_parts.parts, demo_parts.classes)
    convert(tmp_path / 'out', tmp_path / 'labels', classes=demo_parts.classes)
    for split, (original, folder) in demo_parts.parts.items():
        made = content(tmp_path / 'out', split)
        assert [image['file_name'] for image in made['images']] == [i['file_name'] for i in original['images']]
        expected = objects(original)
        assert sum(map(len, expected.values())) > 5
        for name, found in objects(made).items():
            assert [row[0] for row in found] == [row[0] for row in expected[name]]
            for (_, box, area, _), (_, expected_box, expected_area, _) in zip(found, expected[name]):
                np.testing.assert_allclose(box, expected_box, atol=0.011)
                assert area == pytest.approx(expected_area, abs=0.02)
        pairs = zip(
            mask_targets(made, tmp_path, tmp_path / 'out' / split, demo_parts.classes),
            mask_targets(original, tmp_path, folder, demo_parts.classes),
        )
        for (image, masks, boxes, labels), (image_2, masks_2, boxes_2, labels_2) in pairs:
            np.testing.assert_array_equal(image, image_2)
            np.testing.assert_array_equal(labels, labels_2)
            np.testing.assert_allclose(boxes, boxes_2, atol=0.011)
            # A corner at the middle between two pixels may fall to either after rounding, and a seam covers a few.
            assert np.count_nonzero(masks != masks_2) <= 0.004 * np.count_nonzero(masks_2)


def test_parts_of_a_labelme_object_stay_the_polygons_that_they_were(demo_parts, tmp_path):
    write_labelme(tmp_path / 'labels', demo_parts.parts, demo_parts.classes)
    convert(tmp_path / 'out', tmp_path / 'labels')
    original = objects(demo_parts.parts['train'][0])
    made = objects(content(tmp_path / 'out', 'train'))
    assert any(len(row[3]) > 1 for rows in original.values() for row in rows)
    assert {name: [row[3] for row in rows] for name, rows in made.items()} == {
        name: [row[3] for row in rows] for name, rows in original.items()
    }


def test_coco_passes_with_crowds_boxes_and_areas_as_they_are(demo_parts, tmp_path):
    convert(tmp_path / 'out', demo_parts.root)
    for split, (original, _) in demo_parts.parts.items():
        made = content(tmp_path / 'out', split)
        keys = ('bbox', 'area', 'iscrowd', 'segmentation')
        assert [[item[key] for key in keys] for item in made['annotations']] == [
            [item[key] for key in keys] for item in original['annotations']
        ]


def test_links_take_the_place_of_copies(demo_parts, tmp_path):
    convert(tmp_path / 'out', demo_parts.root, link=True)
    copies = list((tmp_path / 'out/train').iterdir())
    assert len(copies) == 12
    assert all(path.is_symlink() and path.resolve().parent == demo_parts.parts['train'][1] for path in copies)


def test_the_same_source_gives_the_same_bytes(demo_parts, tmp_path):
    write_yolo(tmp_path / 'yolo', {'train': demo_parts.parts['train']}, demo_parts.classes)
    (tmp_path / 'yolo/data.yaml').write_text(f'names: {list(demo_parts.classes)}\n')
    for out in ('first', 'second'):
        convert(tmp_path / out, tmp_path / 'yolo', anew=True)
    for name in ('instances_train.json', 'instances_val.json'):
        assert (tmp_path / 'first/annotations' / name).read_bytes() == (
            tmp_path / 'second/annotations' / name
        ).read_bytes()
    assert len(list((tmp_path / 'first/val').iterdir())) == 3


def test_sources_of_several_forms_are_merged_by_the_names_of_their_classes(demo_parts, tmp_path):
    write_yolo(tmp_path / 'yolo', demo_parts.parts, demo_parts.classes)
    renamed = tuple(f'old {name}' if name == 'star' else name for name in demo_parts.classes)
    write_labelme(tmp_path / 'labelme', demo_parts.parts, renamed)
    made = convert(
        tmp_path / 'out',
        tmp_path / 'yolo',
        tmp_path / 'labelme',
        rename={'old star': 'star', 'gear': 'wheel'},
        classes=['wheel', 'star'],
    )
    file = content(tmp_path / 'out', 'train')
    assert file['categories'] == [dict(id=1, name='wheel'), dict(id=2, name='star')]
    assert len(file['images']) == 24 and len({image['file_name'] for image in file['images']}) == 24
    original = demo_parts.parts['train'][0]
    wanted = [i for i, name in enumerate(demo_parts.classes, 1) if name in ('star', 'gear')]
    count = sum(item['category_id'] in wanted and not item['iscrowd'] for item in original['annotations'])
    assert len(file['annotations']) == 2 * count
    assert made.counts()[1] == ['images', 24, 8]
    for image in file['images']:
        assert (tmp_path / 'out/train' / image['file_name']).is_file()


def test_ids_with_gaps_and_a_roboflow_root_category_become_numbers_from_1(demo_parts, tmp_path):
    file = copy.deepcopy(demo_parts.parts['train'][0])
    file['categories'] = [
        dict(id=10 * category['id'], name=category['name'], supercategory='shapes') for category in file['categories']
    ]
    file['categories'].insert(0, dict(id=0, name='shapes', supercategory='none'))
    for item in file['annotations']:
        item['category_id'] *= 10
    path = demo_parts.parts['train'][1].parent / 'gaps.json'
    path.write_text(json.dumps(file))
    try:
        convert(tmp_path / 'out', path, options=ReadOptions(image_folder=demo_parts.parts['train'][1]))
    finally:
        path.unlink()
    made = content(tmp_path / 'out', 'train')
    assert [category['id'] for category in made['categories']] == [1, 2, 3, 4, 5, 6]
    assert tuple(category['name'] for category in made['categories']) == demo_parts.classes


def test_names_outside_ascii_and_spaces_survive(tmp_path):
    folder = tmp_path / 'Fotos von März'
    folder.mkdir()
    for index in range(3):
        Image.new('RGB', (40, 30)).save(folder / f'жук {index}.png')
        (folder / f'жук {index}.txt').write_text('0 0.1 0.1 0.9 0.1 0.5 0.9')
    (folder / 'classes.txt').write_text('жук навозный\n')
    convert(tmp_path / 'out', folder)
    made = content(tmp_path / 'out', 'train')
    assert made['categories'] == [dict(id=1, name='жук навозный')]
    assert all((tmp_path / 'out/train' / image['file_name']).is_file() for image in made['images'])


def test_an_error_leaves_no_folder_and_what_was_there_stays(demo_parts, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    convert(out, demo_parts.root)
    before = (out / 'annotations/instances_train.json').read_bytes()

    def full_disk(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('shutil.copyfile', full_disk)
    with pytest.raises(InputError, match='No space left'):
        convert(out, demo_parts.root, overwrite=True)
    with pytest.raises(InputError, match='No space left'):
        convert(tmp_path / 'other', demo_parts.root)
    assert (out / 'annotations/instances_train.json').read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ['out']


def test_a_folder_in_use_is_not_replaced(demo_parts, tmp_path):
    out = tmp_path / 'out'
    convert(out, demo_parts.root)
    with pytest.raises(InputError, match='--overwrite'):
        convert(out, demo_parts.root)
    (out / 'thesis.tex').touch()
    with pytest.raises(InputError, match=r'not made here \(thesis.tex\)'):
        convert(out, demo_parts.root, overwrite=True)
    with pytest.raises(InputError, match='one in the other'):
        convert(demo_parts.root / 'inside', demo_parts.root)
    with pytest.raises(InputError, match='one in the other'):
        convert(demo_parts.root.parent, demo_parts.root, overwrite=True)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(classes=['sta']), "no class 'sta'"),
        (dict(rename={'sta': 'x'}), "no class 'sta'"),
        (dict(classes=['star', 'star']), 'twice'),
        (dict(group_by='^(.)'), '--split-anew'),
        (dict(val=0, anew=True), 'between 0 and 1'),
        (dict(group_by='(', anew=True), 'no regular expression'),
        (dict(group_by='xyz', anew=True), "finds nothing in '000001.jpg'"),
        (dict(format='labelme'), 'no known form'),
    ],
)
def test_wishes_that_do_not_fit_are_one_line(changes, message, demo_parts, tmp_path):
    with pytest.raises(InputError, match=message):
        convert(tmp_path / 'out', demo_parts.root, **changes)
    assert not (tmp_path / 'out').exists()


def test_what_holds_no_labels_is_of_no_known_form(tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='no known form'):
        convert(tmp_path / 'out', tmp_path / 'empty')
    with pytest.raises(InputError, match='does not exist'):
        convert(tmp_path / 'out', tmp_path / 'absent')
