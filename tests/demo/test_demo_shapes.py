import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
from demo_shapes import ShapeScene, make_demo_shapes
from pycocotools.coco import COCO
from support.tool import run_tool

from mmdet_sag.datasets.converters.masks import parts_without_holes
from mmdet_sag.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
NUM_TRAIN, NUM_VAL = 40, 10


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'demo'
    assert make_demo_shapes(root, NUM_TRAIN, NUM_VAL)
    return root


@pytest.fixture(scope='module')
def coco(data_root):
    return COCO(data_root / 'annotations/instances_train2017.json')


def content(root):
    files = (path for path in sorted(root.rglob('*')) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_parameters_give_the_same_bytes(data_root, tmp_path):
    make_demo_shapes(tmp_path / 'again', NUM_TRAIN, NUM_VAL)
    assert content(tmp_path / 'again') == content(data_root)


def test_another_seed_gives_other_images(data_root, tmp_path):
    make_demo_shapes(tmp_path / 'other', 1, 1, seed=1)
    other = content(tmp_path / 'other')
    assert other['train2017/000001.jpg'] != content(data_root)['train2017/000001.jpg']


def test_a_larger_data_set_contains_the_smaller_one(data_root, tmp_path):
    make_demo_shapes(tmp_path / 'small', 2, 1)
    small, large = content(tmp_path / 'small'), content(data_root)
    assert all(large[name] == digest for name, digest in small.items() if name.endswith('.jpg'))


def test_training_and_validation_images_differ(data_root):
    digests = [digest for name, digest in content(data_root).items() if name.endswith('.jpg')]
    assert len(digests) == NUM_TRAIN + NUM_VAL
    assert len(set(digests)) == len(digests)


def test_a_second_call_leaves_a_finished_data_set_alone(data_root):
    times = {path: path.stat().st_mtime_ns for path in data_root.rglob('*')}
    assert not make_demo_shapes(data_root, NUM_TRAIN, NUM_VAL)
    assert {path: path.stat().st_mtime_ns for path in data_root.rglob('*')} == times


def test_other_parameters_replace_the_data_set_and_leave_nothing_behind(tmp_path):
    make_demo_shapes(tmp_path / 'demo', 3, 1)
    assert make_demo_shapes(tmp_path / 'demo', 2, 1)
    assert len(list((tmp_path / 'demo/train2017').iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ['demo']


def test_files_that_were_not_made_with_a_data_set_stay(tmp_path):
    root = tmp_path / 'demo'
    make_demo_shapes(root, 2, 1)
    foreign = ['annotations/mine.json', 'train2017/000003.jpg', 'notes/today.txt']
    for name in foreign:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text('mine')
    before = content(root)
    assert not make_demo_shapes(root, 2, 1)
    with pytest.raises(InputError, match=r'4 files or folders .*annotations/mine\.json, notes.*: move them') as refusal:
        make_demo_shapes(root, 1, 1)
    assert '\n' not in str(refusal.value)
    assert content(root) == before

    for name in foreign:
        (root / name).unlink()
    (root / 'notes').rmdir()
    assert make_demo_shapes(root, 1, 1)


@pytest.mark.parametrize('text', ['', '[]', '{"num_train": 1}', '{"num_train": "1", "num_val": 1}'])
def test_a_folder_with_a_marker_of_something_else_is_left_alone(tmp_path, text):
    (tmp_path / 'demo_shapes.json').write_text(text)
    with pytest.raises(InputError, match='does not hold the parameters of a demo data set'):
        make_demo_shapes(tmp_path, 1, 1)
    assert (tmp_path / 'demo_shapes.json').read_text() == text


def test_an_interrupted_call_leaves_no_data_set(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cv2, 'imwrite', interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_demo_shapes(tmp_path / 'demo', 1, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / 'mine.txt').write_text('mine')
    with pytest.raises(InputError, match='not a demo data set'):
        make_demo_shapes(tmp_path, 1, 1)
    assert (tmp_path / 'mine.txt').read_text() == 'mine'


@pytest.mark.parametrize(
    'parameters', [dict(num_train=0), dict(num_val=0), dict(image_size=8), dict(seed=-1)], ids=lambda p: next(iter(p))
)
def test_parameters_out_of_range_are_refused(tmp_path, parameters):
    with pytest.raises(InputError, match='give at least'):
        make_demo_shapes(tmp_path / 'demo', **parameters)
    assert list(tmp_path.iterdir()) == []


def test_the_tool_refuses_a_foreign_folder_with_one_line(tmp_path):
    (tmp_path / 'mine.txt').write_text('mine')
    tool = ROOT / 'tools/dataset_converters/make_demo_dataset.py'
    result = run_tool(tool, '--out', tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith('error: ')
    assert 'Traceback' not in result.stderr


def test_images_are_as_large_as_their_annotations_say(data_root, coco):
    for image in coco.imgs.values():
        picture = cv2.imread(str(data_root / 'train2017' / image['file_name']))
        assert picture.shape == (image['height'], image['width'], 3)


def test_every_class_and_size_occurs(coco):
    objects = [annotation for annotation in coco.anns.values() if not annotation['iscrowd']]
    assert {coco.cats[a['category_id']]['name'] for a in objects} == set(ShapeScene.classes)
    areas = [annotation['area'] for annotation in objects]
    assert max(areas) > 10 * min(areas)


def test_the_area_and_box_of_a_polygon_are_those_of_its_pixels(coco):
    for annotation in coco.loadAnns(coco.getAnnIds(iscrowd=False)):
        mask = coco.annToMask(annotation)
        rows, columns = np.nonzero(mask)
        x, y, width, height = annotation['bbox']
        assert mask.sum() == pytest.approx(annotation['area'], rel=0.06)
        # A tip thinner than a pixel has none.
        assert (columns.min(), rows.min()) == pytest.approx((x, y), abs=3)
        assert (columns.max() + 1, rows.max() + 1) == pytest.approx((x + width, y + height), abs=3)


def test_no_two_instances_claim_the_same_pixels(coco):
    shared = claimed = 0
    for image_id in coco.imgs:
        masks = [coco.annToMask(a).astype(int) for a in coco.imgToAnns[image_id]]
        total = sum(masks)
        shared += (total > 1).sum()
        claimed += (total > 0).sum()
    # Rasterising polygons that share a border may give a pixel on it to both.
    assert shared < 0.001 * claimed


def test_objects_occlude_each_other(coco):
    touching = 0
    for image_id in coco.imgs:
        masks = [coco.annToMask(a) for a in coco.loadAnns(coco.getAnnIds(image_id, iscrowd=False))]
        grown = [cv2.dilate(mask, np.ones((3, 3), np.uint8)) for mask in masks]
        touching += sum((a & b).sum() > 10 for i, a in enumerate(grown) for b in masks[i + 1 :])
    assert touching > len(coco.imgs) / 2


class PureColourScene(ShapeScene):
    """A scene whose objects are told by the channels that they use, whatever light and shadow do to them."""

    channels = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1))

    def _render_ground(self):
        self._num_drawn = 0
        return np.zeros((self._size, self._size, 3), np.float32)

    def _render_surface(self, label, shape):
        self._num_drawn += 1
        return np.full((self._size, self._size, 3), self.channels[self._num_drawn - 1], np.float32)


@pytest.mark.parametrize('seed', range(8))
def test_the_picture_shows_each_object_where_its_annotation_is(seed):
    scene = PureColourScene(np.random.default_rng(seed), 128, crowd_prob=0)
    uses = scene.image > 0.2 * scene.image.max()
    y, x = np.mgrid[:128, :128] + 0.5
    assert len(scene.instances) >= 2
    for channels, instance in zip(scene.channels, scene.instances):
        inside = shapely.contains_xy(instance.region.buffer(-1), x, y)
        assert (uses[inside] == np.array(channels, bool)).all(axis=-1).mean() > 0.97
    ground = ~shapely.contains_xy(shapely.union_all([i.region for i in scene.instances]).buffer(1), x, y)
    assert not uses[ground].any()


def test_a_region_with_a_hole_is_cut_into_parts_without_it():
    ring = shapely.Point(40, 40).buffer(30) - shapely.Point(40, 40).buffer(10)
    parts = list(parts_without_holes(ring))
    assert len(parts) == 2
    assert not any(part.interiors for part in parts)
    assert shapely.union_all(parts).symmetric_difference(ring).area == pytest.approx(0, abs=1e-6)


def test_crowds_are_regions_of_several_tiny_objects(coco):
    crowds = coco.loadAnns(coco.getAnnIds(iscrowd=True))
    assert crowds
    for crowd in crowds:
        mask = coco.annToMask(crowd)
        assert mask.sum() == crowd['area']
        assert list(crowd['segmentation']) == ['counts', 'size']
        assert all(isinstance(run, int) for run in crowd['segmentation']['counts'])
        assert cv2.connectedComponents(mask)[0] > 2
