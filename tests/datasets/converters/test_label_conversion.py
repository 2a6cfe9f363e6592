"""Labels of every format become the same COCO files, and an error is one line."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdet.datasets import CocoDataset
from mmengine.registry import init_default_scope
from PIL import Image
from support.label_exports import write_labelme, write_yolo

from mmdet_sag.datasets.converters import LabelConversion, ReadOptions
from mmdet_sag.datasets.converters.label_conversion import split_images
from mmdet_sag.datasets.converters.labelled_data import LabelledImage
from mmdet_sag.errors import InputError


def convert(out, *sources, options=None, format=None, val=0.25, group_by=None, resplit=False, **changes):
    conversion = LabelConversion(sources, options or ReadOptions(), format)
    conversion.check_target(out, overwrite=changes.pop('overwrite', False))
    conversion.read()
    if 'rename' in changes:
        conversion.rename(changes['rename'])
    if 'classes' in changes:
        conversion.choose(changes['classes'])
    conversion.split(val, 0, group_by, resplit)
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


def test_images_are_linked_instead_of_copied(demo_parts, tmp_path):
    convert(tmp_path / 'out', demo_parts.root, link=True)
    copies = list((tmp_path / 'out/train').iterdir())
    assert len(copies) == 12
    assert all(path.is_symlink() and path.resolve().parent == demo_parts.parts['train'][1] for path in copies)


def test_the_same_source_gives_the_same_bytes(demo_parts, tmp_path):
    write_yolo(tmp_path / 'yolo', {'train': demo_parts.parts['train']}, demo_parts.classes)
    (tmp_path / 'yolo/data.yaml').write_text(f'names: {list(demo_parts.classes)}\n')
    for out in ('first', 'second'):
        convert(tmp_path / out, tmp_path / 'yolo', resplit=True)
    for name in ('instances_train.json', 'instances_val.json'):
        assert (tmp_path / 'first/annotations' / name).read_bytes() == (
            tmp_path / 'second/annotations' / name
        ).read_bytes()
    assert len(list((tmp_path / 'first/val').iterdir())) == 3


def test_sources_of_several_formats_are_merged_by_the_names_of_their_classes(demo_parts, tmp_path):
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


def test_folders_of_several_formats_below_one_are_read_each(demo_parts, tmp_path):
    write_yolo(tmp_path / 'in/yolo', demo_parts.parts, demo_parts.classes)
    write_labelme(tmp_path / 'in/labelme', demo_parts.parts, demo_parts.classes)
    (tmp_path / 'in/README.md').touch()
    made = convert(tmp_path / 'out', tmp_path / 'in')
    assert made.counts()[1] == ['images', 24, 8]
    assert [note.partition(': ')[2] for note in made.notes[:2]] == [
        'LabelMe, 16 images, 6 classes',
        'YOLO segmentation, 16 images, 6 classes',
    ]
    # Labels that stand beside the folders may belong to what is in them.
    (tmp_path / 'in/labels.json').write_text('{}')
    with pytest.raises(InputError, match='does not name its classes'):
        convert(tmp_path / 'other', tmp_path / 'in')


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
        Image.new('RGB', (40, 30), (index, 0, 0)).save(folder / f'жук {index}.png')
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
    with pytest.raises(InputError, match=r'did not write \(thesis.tex\)'):
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
        (dict(group_by='^(.)'), '--resplit'),
        (dict(val=0, resplit=True), 'between 0 and 1'),
        (dict(group_by='(', resplit=True), 'is not a regular expression'),
        (dict(group_by='xyz', resplit=True), "does not match '000001.jpg'"),
        (dict(format='labelme'), 'no known label format'),
    ],
)
def test_an_option_that_does_not_fit_is_one_line(changes, message, demo_parts, tmp_path):
    with pytest.raises(InputError, match=message):
        convert(tmp_path / 'out', demo_parts.root, **changes)
    assert not (tmp_path / 'out').exists()


def test_a_folder_without_labels_has_no_known_format(tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='no known label format'):
        convert(tmp_path / 'out', tmp_path / 'empty')
    with pytest.raises(InputError, match='does not exist'):
        convert(tmp_path / 'out', tmp_path / 'absent')


def split(names, *args, **options):
    images = [LabelledImage(name, name, (1, 1)) for name in names]
    split_images(images, *args, **options)
    return {image.name: image.split for image in images}


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 5))
def test_both_parts_have_images_and_the_share_is_met_to_one(count, share, seed):
    found = split([f'{i}.jpg' for i in range(count)], share, seed)
    num_val = list(found.values()).count('val')
    assert 1 <= num_val <= count - 1
    assert abs(num_val - min(max(share * count, 1), count - 1)) <= 1


def test_the_order_of_files_changes_nothing_and_another_seed_does():
    names = [f'{i}.jpg' for i in range(40)]
    assert split(names, 0.25) == split(names[::-1], 0.25)
    assert split(names, 0.25, 1) != split(names, 0.25, 2)


def test_more_images_move_few_of_the_others():
    names = [f'{i}.jpg' for i in range(100)]
    before, after = split(names[:95], 0.2), split(names, 0.2)
    assert sum(before[name] != after[name] for name in before) <= 5


def test_images_of_a_group_stay_together():
    names = [f'mast{i % 7}/{i}.jpg' for i in range(70)]
    found = split(names, 0.3, group_by='^[^/]+')
    groups = {name.split('/')[0]: set() for name in names}
    for name, part in found.items():
        groups[name.split('/')[0]].add(part)
    assert all(len(parts) == 1 for parts in groups.values())
    assert list(found.values()).count('val') == 20


def test_one_group_cannot_be_divided():
    with pytest.raises(InputError, match='1 group to split'):
        split(['a/1.jpg', 'a/2.jpg'], 0.5, group_by='^[^/]+')


def _voc(folder, name):
    (folder / f'{name}.xml').write_text(
        f'<annotation><filename>{name}.png</filename><size><width>40</width><height>30</height><depth>3</depth></size>'
        '<object><name>pole</name><bndbox><xmin>5</xmin><ymin>7</ymin><xmax>12</xmax><ymax>24</ymax></bndbox></object>'
        '</annotation>'
    )


def _yolo(folder, name):
    (folder / f'{name}.txt').write_text('0 0.2 0.5 0.2 0.6\n')
    (folder / 'classes.txt').write_text('pole\n')


def _labelme(folder, name):
    shape = dict(label='pole', shape_type='rectangle', points=[[4, 6], [12, 24]])
    content = dict(version='5', shapes=[shape], imagePath=f'{name}.png', imageWidth=40, imageHeight=30)
    (folder / f'{name}.json').write_text(json.dumps(content))


def _coco(folder, name):
    path = folder / 'labels.json'
    images = json.loads(path.read_text())['images'] if path.exists() else []
    images.append(dict(id=len(images) + 1, file_name=f'{name}.png', width=40, height=30))
    ids = [image['id'] for image in images]
    annotations = [dict(id=i, image_id=i, category_id=1, bbox=[4, 6, 8, 18], area=100, iscrowd=0) for i in ids]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=[dict(id=1, name='pole')])))


@pytest.mark.parametrize(
    ('write', 'without_option'),
    [(_voc, '--boxes'), (_yolo, '--boxes'), (_coco, '--boxes'), (_labelme, None)],
    ids=['Pascal VOC', 'YOLO', 'COCO', 'rectangles of LabelMe'],
)
def test_boxes_are_converted_where_they_are_asked_for(write, without_option, tmp_path):
    folder = tmp_path / 'in'
    folder.mkdir()
    for i, name in enumerate('abcd'):
        Image.new('RGB', (40, 30), (i, 0, 0)).save(folder / f'{name}.png')
        write(folder, name)
    made = convert(tmp_path / 'out', folder, options=ReadOptions(boxes=True))
    assert '4 of 4 objects have a box and no mask' in made.notes
    assert ['(of them boxes without mask)', 3, 1] in made.counts()
    for split in ('train', 'val'):
        for (item,) in objects(content(tmp_path / 'out', split)).values():
            assert item == ('pole', [4, 6, 8, 18], 144, [])
    if without_option:
        with pytest.raises(InputError, match=without_option):
            convert(tmp_path / 'none', folder)
    else:
        made = convert(tmp_path / 'none', folder)
        assert any('4 of 4 outlines are upright rectangles: if they are boxes, give --boxes' in n for n in made.notes)


def test_masks_stay_masks_beside_boxes(tmp_path):
    folder = tmp_path / 'in'
    folder.mkdir()
    for i, name in enumerate('ab'):
        Image.new('RGB', (40, 30), (i, 0, 0)).save(folder / f'{name}.png')
    (folder / 'classes.txt').write_text('pole\n')
    for name in 'ab':
        (folder / f'{name}.txt').write_text('0 0.1 0.2 0.4 0.2 0.1 0.8\n0 0.2 0.5 0.2 0.6\n')
    convert(tmp_path / 'out', folder, options=ReadOptions(boxes=True), val=0.5)
    masks = [item['segmentation'] for item in content(tmp_path / 'out', 'train')['annotations']]
    assert masks == [[[4, 6, 16, 6, 4, 24]], []]
