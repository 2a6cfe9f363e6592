"""Annotation files in COCO's format as other tools write them, and several that label the same images."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.label_exports import sound
from support.tool import run_tool

from mmdet_sag.datasets.converters import LabelConversion, ReadOptions
from mmdet_sag.datasets.converters.coco_data_set import read_coco
from mmdet_sag.datasets.converters.masks import encoded
from mmdet_sag.errors import InputError

SQUARE = [1, 1, 6, 1, 6, 6, 1, 6]


def put_images(folder, *names, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (len(names), 20, 30, 3), dtype=np.uint8)
    for name, values in zip(names, pixels):
        Image.fromarray(values).save(folder / name)


def annotation(number, image=None, **changes):
    image = number if image is None else image
    entry = dict(id=number, image_id=image, category_id=1, bbox=[1, 1, 5, 5], area=25, iscrowd=0, segmentation=[SQUARE])
    return dict(entry, **changes)


def write(path, names, annotations=None, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [dict(id=i, file_name=name, width=30, height=20) for i, name in enumerate(names, 1)]
    annotations = [annotation(i) for i in range(1, len(names) + 1)] if annotations is None else annotations
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='leaf')])
    path.write_text(json.dumps(dict(content, **changes)))
    return path


def convert(out, *sources, resplit=False, val=0.5, group_by=None, max_left_out=0.1, merge=False, **options):
    conversion = LabelConversion(sources, ReadOptions(**options), max_left_out=max_left_out, merge=merge)
    conversion.read()
    conversion.split(val, 0, group_by, resplit)
    conversion.write(out)
    return conversion


def written(out):
    """Number of images and objects by split."""
    files = {path.stem[10:]: json.loads(path.read_text()) for path in sorted((out / 'annotations').glob('*.json'))}
    return {split: (len(file['images']), len(file['annotations'])) for split, file in files.items()}


@pytest.fixture
def two_parts(tmp_path):
    """A data set with a file for each part in ``annotations``."""
    root = tmp_path / 'in'
    for seed, split in enumerate(('train', 'val')):
        names = [f'{split}{i}.png' for i in range(3)]
        put_images(root / split, *names, seed=seed)
        write(root / f'annotations/instances_{split}.json', names)
    return root


@pytest.mark.parametrize('copy', ['train/_annotations.coco.json', 'annotations/instances_train_backup.json'])
@pytest.mark.parametrize('resplit', [False, True])
def test_the_same_labels_in_two_files_are_read_once(copy, resplit, two_parts, tmp_path):
    (two_parts / copy).write_bytes((two_parts / 'annotations/instances_train.json').read_bytes())
    convert(tmp_path / 'out', two_parts, resplit=resplit)
    assert written(tmp_path / 'out') == dict(train=(3, 3), val=(3, 3))


def test_a_file_of_all_images_beside_those_of_the_parts_adds_nothing(tmp_path):
    names = [f'{i}.png' for i in range(6)]
    put_images(tmp_path / 'in/images', *names)
    for name, part in (('all', names), ('train', names[:4]), ('val', names[4:])):
        write(tmp_path / f'in/annotations/{name}.json', part)
    convert(tmp_path / 'out', tmp_path / 'in')
    assert written(tmp_path / 'out') == dict(train=(4, 4), val=(2, 2))


def test_files_that_label_an_image_differently_are_named_with_the_options(two_parts, tmp_path):
    other = two_parts / 'annotations/train_old.json'
    names = [f'train{i}.png' for i in range(3)]
    write(other, names, [annotation(1), annotation(2), annotation(3, segmentation=[[1, 1, 9, 1, 9, 9]])])
    with pytest.raises(InputError, match='instances_train.json.* and .*train_old.json.*--skip FILE.*--merge'):
        convert(tmp_path / 'out', two_parts)
    convert(tmp_path / 'skipped', two_parts, skip=[other])
    assert written(tmp_path / 'skipped') == dict(train=(3, 3), val=(3, 3))
    convert(tmp_path / 'merged', two_parts, merge=True)
    assert written(tmp_path / 'merged') == dict(train=(3, 4), val=(3, 3))


def test_a_file_that_was_cut_short_is_not_left_out(two_parts, tmp_path):
    path = two_parts / 'annotations/instances_train.json'
    path.write_text(path.read_text()[:-50])
    with pytest.raises(InputError, match='instances_train.json.* is not valid JSON'):
        convert(tmp_path / 'out', two_parts)


def test_an_image_in_two_parts_is_an_error_and_once_in_a_new_split(tmp_path):
    names = [f'{i}.png' for i in range(4)]
    put_images(tmp_path / 'in/images', *names)
    write(tmp_path / 'in/annotations/train.json', names)
    write(tmp_path / 'in/annotations/val.json', names[3:])
    with pytest.raises(InputError, match=r"3.png' is in train \(.*train.json'\) and in val .*--resplit"):
        convert(tmp_path / 'out', tmp_path / 'in')
    convert(tmp_path / 'out', tmp_path / 'in', resplit=True)
    assert written(tmp_path / 'out') == dict(train=(2, 2), val=(2, 2))


def test_images_of_one_name_in_two_parts_stay_two_images(tmp_path):
    for seed, split in enumerate(('train', 'val')):
        put_images(tmp_path / 'in' / split, 'a.png', 'b.png', seed=seed)
        write(tmp_path / f'in/annotations/{split}.json', ['a.png', 'b.png'])
    convert(tmp_path / 'out', tmp_path / 'in', resplit=True)
    images = {path.read_bytes() for path in (tmp_path / 'out').rglob('*.png')}
    assert written(tmp_path / 'out') == dict(train=(2, 2), val=(2, 2)) and len(images) == 4


def test_masks_that_are_all_crowds_are_objects_by_an_option(tmp_path):
    put_images(tmp_path / 'in', 'a.png', 'b.png')
    bitmap = np.zeros((20, 30), np.uint8)
    bitmap[2:9, 3:12] = 1
    crowds = [annotation(i, iscrowd=1, segmentation=encoded(bitmap)) for i in (1, 2)]
    path = write(tmp_path / 'in/labels.json', ['a.png', 'b.png'], crowds)
    with pytest.raises(InputError, match='all 2 masks .* are crowd regions.*--crowds-are-objects'):
        convert(tmp_path / 'out', path)
    made = convert(tmp_path / 'out', path, crowds_are_objects=True)
    assert made.counts() == [['', 'train', 'val'], ['images', 1, 1], ['leaf', 1, 1]]
    # Among objects they stay what they are, and are said.
    write(path, ['a.png', 'b.png'], [*crowds, annotation(3, 1), annotation(4, 2)])
    made = convert(tmp_path / 'mixed', path)
    assert made.counts()[2:] == [['leaf', 1, 1], ['(crowds: not learnt)', 1, 1]]
    assert any(note.startswith('2 of 4 masks') and '--crowds-are-objects' in note for note in made.notes)


def test_augmented_copies_stay_in_the_part_of_their_original(tmp_path):
    names = [f'{name}_jpg.rf.{copy * 8}.png' for name in 'abcd' for copy in '123']
    put_images(tmp_path / 'in', *names)
    path = write(tmp_path / 'in/labels.json', names)
    made = convert(tmp_path / 'out', path)
    parts = {split: {image.name[0] for image in made.images if image.split == split} for split in ('train', 'val')}
    assert len(parts['train']) == len(parts['val']) == 2 and not parts['train'] & parts['val']
    assert '8 images are copies of others: each is in the part of its original' in made.notes


@pytest.mark.parametrize('kind', ['augmented', 'equal files'])
def test_copies_across_the_parts_of_a_source_are_said(kind, tmp_path):
    names = ['a.rf.1111.png', 'b.png', 'c.png'], ['a.rf.2222.png', 'd.png']
    for seed, (split, part) in enumerate(zip(('train', 'val'), names)):
        put_images(tmp_path / 'in' / split, *part, seed=seed)
        write(tmp_path / f'in/annotations/{split}.json', part)
    if kind == 'equal files':
        (tmp_path / 'in/val/d.png').write_bytes((tmp_path / 'in/train/c.png').read_bytes())
    made = convert(tmp_path / 'out', tmp_path / 'in')
    count = 2 if kind == 'equal files' else 1
    warning = next(note for note in made.notes if note.startswith('warning: '))
    assert f'{count} of 2 val images are copies of training images' in warning and '--resplit' in warning
    made = convert(tmp_path / 'new', tmp_path / 'in', resplit=True, group_by='.*')
    split = {image.path.name: image.split for image in made.images}
    assert split['a.rf.1111.png'] == split['a.rf.2222.png']
    assert kind == 'augmented' or split['c.png'] == split['d.png']


def test_the_name_of_a_roboflow_project_may_be_that_of_a_class(tmp_path):
    put_images(tmp_path, 'a.png')
    categories = [dict(id=0, name='leaf', supercategory='none'), dict(id=1, name='leaf', supercategory='leaf')]
    data = sound(read_coco(write(tmp_path / 'a.json', ['a.png'], categories=categories), ReadOptions()))
    assert data.classes == ['leaf'] and len(data.images[0].objects) == 1


@pytest.mark.parametrize('name', ['sub\\a.png', 'C:\\Users\\me\\set\\sub\\a.png', '/home/me/set/sub/a.png'])
def test_paths_of_another_machine_are_found(name, tmp_path):
    put_images(tmp_path / 'sub', 'a.png')
    data = sound(read_coco(write(tmp_path / 'labels.json', [name]), ReadOptions()))
    assert (data.images[0].name, len(data.images[0].objects)) == ('sub/a.png', 1)
    # With --images, the end of any path counts.
    moved = write(tmp_path / 'elsewhere/labels.json', ['old/folder/a.png'])
    assert len(sound(read_coco(moved, ReadOptions(image_folder=tmp_path / 'sub'))).images) == 1


def test_dialects_of_other_tools_are_read(tmp_path):
    # FiftyOne.
    put_images(tmp_path / 'fiftyone/data', 'a.png')
    assert len(sound(read_coco(write(tmp_path / 'fiftyone/labels.json', ['a.png']), ReadOptions())).images) == 1
    put_images(tmp_path, 'a.png')
    # LIVECell, with a byte order mark.
    path = write(tmp_path / 'livecell.json', ['a.png'], {'7': annotation(1)})
    path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes())
    # VIA.
    via = annotation(1, '1', segmentation=SQUARE)
    write(tmp_path / 'via.json', ['a.png'], [via], categories=[dict(id=1, name='leaf', supercategory='type')] * 2)
    # Label tools that know keypoints.
    write(tmp_path / 'keypoints.json', ['a.png'], [annotation(1, keypoints=[])])
    for name in ('livecell', 'via', 'keypoints'):
        conversion = LabelConversion([tmp_path / f'{name}.json'])
        conversion.read()
        assert [item.segmentation for item in conversion.images[0].objects] == [[SQUARE]], name


def test_broken_entries_are_left_out_and_listed(tmp_path):
    names = [f'{i}.png' for i in range(30)]
    put_images(tmp_path / 'in', *names[:28])
    (tmp_path / 'in/28.png').write_text('<html>')
    broken = [
        annotation(40, 1, segmentation=[[1, 1, 5, 5]]),
        annotation(41, 1, segmentation=[]),
        annotation(42, 99),
    ]
    path = write(tmp_path / 'in/labels.json', names, [annotation(i) for i in range(1, 31)] + broken)
    made = convert(tmp_path / 'out', path)
    assert sum(images for images, _ in written(tmp_path / 'out').values()) == 28
    assert sum(objects for _, objects in written(tmp_path / 'out').values()) == 28
    counts = {reason: count for reason, count, _ in made.left_out_counts()[1:]}
    assert sum(counts.values()) == 5
    assert counts['images: cannot be read'] == counts['images: the image does not exist'] == 1
    with open(tmp_path / 'out/annotations/left_out.csv', newline='') as file:
        rows = list(csv.reader(file))
    assert len(rows) == 6 and ['objects', f"'{path}', entry 32 of the annotations", 'its image is not listed'] in rows


def test_more_broken_entries_than_the_share_stop_and_the_option_that_is_named_helps(tmp_path):
    put_images(tmp_path / 'in', 'a.png', 'b.png')
    path = write(tmp_path / 'in/labels.json', ['a.png', 'b.png'])
    content = json.loads(path.read_text())
    content['annotations'].append(annotation(3, 1, segmentation=[]))
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r'entry 2 .*has no mask.*--max-left-out 0.34'):
        convert(tmp_path / 'out', path)
    convert(tmp_path / 'out', path, max_left_out=0.34)
    assert written(tmp_path / 'out') == dict(train=(1, 1), val=(1, 1))


def test_the_command_takes_the_options_and_prints_what_was_left_out(two_parts, tmp_path):
    broken = [annotation(1), annotation(2), annotation(3, segmentation=[[1, 1, 5, 5]])]
    other = write(two_parts / 'annotations/train_old.json', [f'train{i}.png' for i in range(3)], broken)
    tool = Path(__file__).parents[3] / 'tools/dataset_converters/to_coco.py'
    arguments = [two_parts, '--out', tmp_path / 'out', '--max-left-out', 0.2]
    refused = run_tool(tool, *arguments)
    assert refused.returncode == 2 and '--skip FILE' in refused.stderr
    assert run_tool(tool, *arguments, '--skip', 'absent.json').returncode == 2
    finished = run_tool(tool, *arguments, '--merge')
    assert finished.returncode == 0, finished.stderr
    assert '| objects: has a broken mask (short-polygon) | 1 ' in finished.stdout and 'left_out.csv' in finished.stdout
    finished = run_tool(tool, *arguments, '--skip', other, '--overwrite')
    assert finished.returncode == 0 and 'left out' not in finished.stdout
    assert not (tmp_path / 'out/annotations/left_out.csv').exists()


def test_files_that_are_named_one_by_one_keep_their_split(two_parts, tmp_path):
    files = [two_parts / f'annotations/instances_{split}.json' for split in ('train', 'val')]
    made = convert(tmp_path / 'out', *files, val=0.2)
    assert {image.name: image.split for image in made.images} == {
        f'{split}{i}.png': split for split in ('train', 'val') for i in range(3)
    }
    # One part alone is split.
    convert(tmp_path / 'one', files[1], val=0.4)
    assert written(tmp_path / 'one') == dict(train=(2, 2), val=(1, 1))


def test_an_object_keeps_its_sound_polygons(tmp_path):
    put_images(tmp_path / 'in', 'a.png', 'b.png')
    parts = annotation(1, segmentation=[SQUARE, [7, 7, 8, 8]], bbox=[1, 1, 7, 7])
    made = convert(tmp_path / 'out', write(tmp_path / 'in/labels.json', ['a.png', 'b.png'], [parts, annotation(2)]))
    item = made.images[0].objects[0]
    assert (item.segmentation, item.bbox, item.area) == ([SQUARE], None, None)
    assert made.left_out_counts()[1][:2] == ['polygons: broken beside sound ones (short-polygon)', 1]
