"""Lines and layouts of YOLO's labels."""

from pathlib import Path

import pytest
from PIL import Image
from support.label_exports import sound

from mmdet_sag.checks import check_files
from mmdet_sag.datasets.converters import LabelConversion
from mmdet_sag.datasets.converters.labelled_data import ReadOptions
from mmdet_sag.datasets.converters.source_files import read_yaml
from mmdet_sag.datasets.converters.yolo import is_yolo, read_yolo
from mmdet_sag.errors import InputError

TRIANGLE = '0 0.25 0.25 0.75 0.25 0.5 0.75\n'


def put(image, label, text=TRIANGLE, size=(40, 20)):
    image.parent.mkdir(parents=True, exist_ok=True)
    label.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size).save(image)
    label.write_text(text)


def read(source, **options):
    assert is_yolo(source)
    return sound(read_yolo(source, ReadOptions(**options)))


def test_fractions_become_pixels_of_the_image(tmp_path):
    put(tmp_path / 'a.jpg', tmp_path / 'a.txt')
    data = read(tmp_path, class_names=['insulator'])
    (item,) = data.images[0].objects
    assert (item.name, item.segmentation) == ('insulator', [[10, 5, 30, 5, 20, 15]])


@pytest.mark.parametrize('style', ['images first', 'split first', 'lists'])
def test_the_layouts_of_ultralytics_and_roboflow(style, tmp_path):
    for split in ('train', 'valid'):
        for name in 'ab':
            places = [
                f'{kind}/{split}' if style == 'images first' else f'{split}/{kind}' for kind in ('images', 'labels')
            ]
            put(tmp_path / places[0] / f'{name}.png', tmp_path / places[1] / f'{name}.txt')
    entries = ['../train/images', '../valid/images']
    if style == 'images first':
        entries = ['images/train', 'images/valid']
    elif style == 'lists':
        for split in ('train', 'valid'):
            (tmp_path / f'{split}.txt').write_text(f'./{split}/images/a.png\n./{split}/images/b.png\n')
        entries = ['train.txt', 'valid.txt']
    # The address on the machine that made it, as in downloaded data sets.
    head = 'path: /home/someone/data\n' if style != 'images first' else ''
    (tmp_path / 'data.yaml').write_text(
        f'{head}train: {entries[0]}\nval: {entries[1]}\ntest: ../test/images\nnames: {{0: insulator, 1: defect}}\n'
    )
    for source in (tmp_path, tmp_path / 'data.yaml'):
        data = read(source)
        assert data.classes == ['insulator', 'defect']
        assert [(image.split, image.name) for image in data.images] == [
            ('train', 'a.png'),
            ('train', 'b.png'),
            ('val', 'a.png'),
            ('val', 'b.png'),
        ]
        assert all(len(image.objects) == 1 for image in data.images)


def test_classes_of_one_name_are_one(tmp_path):
    put(tmp_path / 'a.png', tmp_path / 'a.txt', f'{TRIANGLE}1{TRIANGLE[1:]}')
    conversion = LabelConversion([tmp_path], ReadOptions(class_names=['x', 'x']))
    conversion.read()
    assert conversion.counts()[2:] == [['x']] and len(conversion.images[0].objects) == 2


def test_images_without_labels_are_background(tmp_path):
    put(tmp_path / 'a.png', tmp_path / 'a.txt')
    put(tmp_path / 'b.png', tmp_path / 'b.txt', '')
    Image.new('RGB', (8, 8)).save(tmp_path / 'c.png')
    data = read(tmp_path, class_names=['x'])
    assert [len(image.objects) for image in data.images] == [1, 0, 0]
    assert data.notes == ['1 images without a label file: taken as images without objects']


def test_an_outline_beyond_the_border_is_cut_at_it(tmp_path):
    put(tmp_path / 'a.png', tmp_path / 'a.txt', '0 -0.1 0.5 0.5 0 1.1 0.5 0.5 1\n')
    data = read(tmp_path, class_names=['x'])
    (polygon,) = data.images[0].objects[0].segmentation
    assert min(polygon) == 0 and max(polygon[::2]) == 40 and max(polygon[1::2]) == 20


def test_an_outline_without_area_is_no_object(tmp_path):
    lines = TRIANGLE + '0 0.5 0.5 0.5 0.5 0.5 0.5\n0 0 0 0.2 0.2 0.3 0.3\n'
    for name, height in dict(a=20, b=30).items():
        put(tmp_path / f'{name}.png', tmp_path / f'{name}.txt', lines, (40, height))
    (tmp_path / 'classes.txt').write_text('x\n')
    conversion = LabelConversion([tmp_path])
    conversion.read()
    conversion.split(0.5, 0, None, False)
    conversion.write(tmp_path / 'out')
    assert all(report.is_clean for report in check_files(tmp_path / 'out', ['train', 'val']))
    assert conversion.counts()[2] == ['x', 1, 1]
    assert [row[:2] for row in conversion.left_out_counts()[1:]] == [
        ['not learnt: objects outside their image, or without area', 4]
    ]


def test_images_may_lie_elsewhere(tmp_path):
    put(tmp_path / 'photos/train/a.png', tmp_path / 'exported/labels/train/a.txt')
    data = read(tmp_path / 'exported', class_names=['x'], image_folder=tmp_path / 'photos')
    assert [(image.split, len(image.objects)) for image in data.images] == [('train', 1)]


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('0 0.5 0.5 0.2 0.2', 'line 2: is a box'),
        ('0 0.5 0.5 0.2', 'has 3 coordinates'),
        ('0 0.5 0.5 0.2 0.2 0.1 0.1 0.3', 'has 7 coordinates'),
        ('0 0.5 0.5 nan 0.2 0.1 0.1', 'NaN or infinite'),
        ('0 10 10 200 10 10 200', r'not in fractions of the image \(200\)'),
        ('0 -10 0.1 0.9 0.1 0.5 0.9', r'line 2: is not in fractions.* \(-10\)'),
        ('2 0.1 0.1 0.9 0.1 0.5 0.9', 'class 2 has no name: there are 2'),
        ('-1 0.1 0.1 0.9 0.1 0.5 0.9', 'class -1 has no name'),
        ('insulator 0.1 0.1 0.9 0.1 0.5 0.9', 'word that is not a number'),
    ],
)
def test_a_broken_line_is_named(line, message, tmp_path):
    put(tmp_path / 'a.png', tmp_path / 'a.txt', TRIANGLE + line)
    with pytest.raises(InputError, match=message):
        read(tmp_path, class_names=['x', 'y'])


def test_labels_in_pixels_are_recognised_and_refused(tmp_path):
    put(tmp_path / 'a.png', tmp_path / 'a.txt', '0 10 10 20 10 10 15\n')
    with pytest.raises(InputError, match=r'line 1: .*\(20\)'):
        read(tmp_path, class_names=['x'])


def test_what_a_data_yaml_lacks_is_named(tmp_path):
    put(tmp_path / 'images/train/a.png', tmp_path / 'labels/train/a.txt')
    with pytest.raises(InputError, match='--source-classes'):
        read(tmp_path)
    (tmp_path / 'data.yaml').write_text('train: images/tran\nnames: [x]\n')
    with pytest.raises(InputError, match="train is 'images/tran', which does not exist"):
        read(tmp_path)
    (tmp_path / 'data.yaml').write_text('names: {1: x, 2: y}\n')
    with pytest.raises(InputError, match='not numbered from 0'):
        read(tmp_path)
    (tmp_path / 'data.yaml').write_text('names: [x\n')
    with pytest.raises(InputError, match='not valid YAML'):
        read(tmp_path / 'data.yaml')


def test_a_yaml_file_of_another_program_does_not_make_a_folder_one_of_yolo(tmp_path):
    (tmp_path / 'ci.yml').write_text('- a\n- list\n')
    (tmp_path / 'site.yaml').write_text('extra: !!python/name:os.path\n')
    assert not is_yolo(tmp_path)
    (tmp_path / 'shapes.yaml').write_text('names: [a]\ntrain: images\n')
    assert is_yolo(tmp_path)
    (tmp_path / 'data.yaml').write_text('- a\n')
    with pytest.raises(InputError, match="data.yaml': holds a list instead of a mapping"):
        is_yolo(tmp_path)


@pytest.mark.parametrize(
    'text',
    [
        'a0: &a0 [x]\n' + ''.join(f'a{i}: &a{i} [{f"*a{i - 1}, " * 9}]\n' for i in range(1, 9)) + 'names: *a8\n',
        'a0: &a0 {x: 1}\n' + ''.join(f'a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n' for i in range(1, 40)),
        'names: &names [*names]\n',
    ],
    ids=['lists', 'merged mappings', 'itself'],
)
def test_a_yaml_file_of_nested_aliases_is_refused_at_once(text, tmp_path):
    (tmp_path / 'data.yaml').write_text(text)
    with pytest.raises(InputError, match=r"data.yaml': is not valid YAML \(its aliases stand for too many values\)"):
        read(tmp_path / 'data.yaml')


def test_a_yaml_file_may_have_aliases(tmp_path):
    (tmp_path / 'data.yaml').write_text('x: &x {names: &names [a, b]}\n<<: *x\nothers: *names\n')
    assert read_yaml(tmp_path / 'data.yaml')['names'] == ['a', 'b']


@pytest.mark.parametrize('style', ['/content/set-1/{}/images', 'C:\\\\data\\\\set\\\\{}\\\\images', '{}\\\\images'])
def test_paths_of_another_machine_are_found(style, tmp_path):
    for split in ('train', 'valid'):
        put(tmp_path / split / 'images/a.png', tmp_path / split / 'labels/a.txt')
    lines = [f'{key}: "{style.format(split)}"' for key, split in dict(train='train', val='valid', test='test').items()]
    (tmp_path / 'data.yaml').write_text('\n'.join(['names: [x]', *lines]), encoding='utf-8-sig')
    assert [(image.split, len(image.objects)) for image in read(tmp_path).images] == [('train', 1), ('val', 1)]


@pytest.mark.parametrize('line', ['D:\\set\\images\\a.png', 'data/images/a.png'])
def test_lists_of_another_machine_and_of_cvat_are_found(line, tmp_path):
    put(tmp_path / 'images/a.png', tmp_path / 'labels/a.txt')
    (tmp_path / 'train.txt').write_text(line)
    (tmp_path / 'data.yaml').write_text('names: [x]\ntrain: train.txt\n')
    assert len(read(tmp_path).images[0].objects) == 1


def test_the_training_folder_named_as_validation_is_an_error(tmp_path):
    put(tmp_path / 'images/train/a.png', tmp_path / 'labels/train/a.txt')
    (tmp_path / 'data.yaml').write_text('names: [x]\ntrain: images/train\nval: images/train\n')
    conversion = LabelConversion([tmp_path])
    conversion.read()
    with pytest.raises(InputError, match='a.png.* is in train .* and in val .*--resplit'):
        conversion.split(0.2, 0, None, False)


def test_label_files_without_a_readable_image_are_counted(tmp_path):
    put(tmp_path / 'images/a.jpg', tmp_path / 'labels/a.txt')
    for name in ('b.jfif', 'c.avif'):
        put(tmp_path / 'images/a.jpg', tmp_path / f'labels/{name[0]}.txt')
        Image.new('RGB', (40, 20)).save(tmp_path / 'images' / name, 'JPEG' if name == 'b.jfif' else 'AVIF')
    for name in ('d', 'e', 'f'):
        (tmp_path / f'labels/{name}.txt').write_text(TRIANGLE)
    (tmp_path / 'images/e.heic').write_bytes(b'\0\0\0\x18ftypheic\0\0\0\0mif1heic')
    (tmp_path / 'images/f.png').write_text('')
    data = read_yolo(tmp_path, ReadOptions(class_names=['x']))
    assert [image.name for image in data.images] == ['a.jpg', 'b.jfif', 'c.avif']
    reasons = {Path(str(error.place).strip("'")).name.rstrip("'"): error.reason for error in data.left_out['images']}
    assert reasons == {
        'd.txt': 'a label file without an image', 'e.heic': 'training cannot read HEIC', 'f.png': 'cannot be read',
    }  # fmt: skip


def test_a_broken_line_among_sound_ones_is_left_out(tmp_path):
    put(tmp_path / 'a.png', tmp_path / 'a.txt', f'{TRIANGLE}0 0.5 0.5 0.2 0.2\n{TRIANGLE}')
    data = read_yolo(tmp_path, ReadOptions(class_names=['x']))
    assert len(data.images[0].objects) == 2
    assert [error.place for error in data.left_out['objects']] == [f"'{tmp_path / 'a.txt'}', line 2"]
