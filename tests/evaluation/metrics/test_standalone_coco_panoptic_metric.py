import copy
import json

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import METRICS

from mmdet_sag.datasets.coco_instance_panoptic import id_to_rgb
from mmdet_sag.errors import InputError

CATEGORIES = [
    dict(id=3, name='cat', isthing=1),
    dict(id=5, name='dog', isthing=1),
    dict(id=90, name='sky', isthing=0),
    dict(id=91, name='sea', isthing=0),
]
META = dict(classes=('cat', 'dog', 'sky', 'sea'), thing_classes=('cat', 'dog'), stuff_classes=('sky', 'sea'))
VOID = len(CATEGORIES)


class Data:
    """Panoptic annotations on disk, and predictions for them."""

    def __init__(self, root):
        self.root = root
        self.ann_file = root / 'panoptic.json'
        self.png_folder = root / 'png'
        self.png_folder.mkdir()
        self.annotations, self.samples = [], []

    def add(self, truth, crowds, prediction):
        """Add an image: its segments' ids are 1000 x number + label; 0 is void."""
        image_id = len(self.annotations) + 1
        segments = [
            dict(
                id=int(i),
                category_id=CATEGORIES[i % 1000]['id'],
                area=int((truth == i).sum()),
                iscrowd=int(i in crowds),
            )
            for i in np.unique(truth)
            if i
        ]
        file_name = f'{image_id}.png'
        self.annotations.append(dict(image_id=image_id, file_name=file_name, segments_info=segments))
        cv2.imwrite(str(self.png_folder / file_name), id_to_rgb(truth)[..., ::-1])
        self.samples.append(
            dict(
                img_id=image_id,
                img_path=f'{image_id}.jpg',
                ori_shape=truth.shape,
                pred_panoptic_seg=dict(sem_seg=torch.from_numpy(prediction[None].astype(np.int32))),
            )
        )

    def evaluate(self, kind='StandaloneCocoPanopticMetric', name='{}.jpg', **options):
        images = [dict(id=entry['image_id'], file_name=name.format(entry['image_id'])) for entry in self.annotations]
        content = dict(images=images, annotations=self.annotations, categories=CATEGORIES)
        self.ann_file.write_text(json.dumps(content))
        metric = METRICS.build(dict(type=kind, ann_file=str(self.ann_file), seg_prefix=str(self.png_folder), **options))
        metric.dataset_meta = META
        # MMDetection's changes the predictions.
        metric.process({}, copy.deepcopy(self.samples))
        return metric.evaluate(len(self.samples))


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path)


def random_map(rng, empty):
    """A map of blocks with random segments of all classes."""
    ids = np.array([empty, 1000, 2000, 3000, 1001, 2001, 2, 3])
    blocks = rng.choice(ids, (6, 8))
    return np.kron(blocks, np.ones((5, 5), int))


def add_random_images(data, number=30):
    rng = np.random.default_rng(0)
    for _ in range(number):
        truth = random_map(rng, 0)
        # Mostly right, so that there are matches.
        right = np.kron(rng.random((15, 20)) < 0.8, np.ones((2, 2), int)) > 0
        prediction = np.where(right, np.where(truth == 0, VOID, truth), random_map(rng, VOID))
        data.add(truth, {1000} if rng.random() < 0.5 else set(), prediction)


def test_a_perfect_prediction_has_all_of_it(data, device):
    truth = np.array([[1000, 1000, 2, 2], [1000, 1000, 2, 2], [0, 0, 3, 3]])
    data.add(truth, set(), np.where(truth == 0, VOID, truth))
    found = data.samples[0]['pred_panoptic_seg']
    found['sem_seg'] = found['sem_seg'].to(device)
    metrics = data.evaluate()
    assert metrics == {
        f'coco_panoptic/{name}{part}': 100.0 for name in ('PQ', 'SQ', 'RQ') for part in ('', '_th', '_st')
    }


def test_quality_is_overlap_of_the_matches_over_matches_and_half_of_the_rest(data):
    truth = np.zeros((10, 10), int)
    truth[:4], truth[4:8], truth[8:] = 1000, 2000, 2
    prediction = np.full((10, 10), 2)
    # 30 of the first cat's 40 pixels, no other cat, a dog that is none.
    prediction[:3], prediction[4:6] = 1000, 1001
    data.add(truth, set(), prediction)
    metrics = data.evaluate()
    # cat: one match of IoU 0.75, one missed; dog: one false; sky: 20 of 50 pixels are right, which is no match.
    assert metrics['coco_panoptic/PQ_th'] == pytest.approx(100 * (0.75 / 1.5 + 0) / 2)
    assert metrics['coco_panoptic/SQ_th'] == pytest.approx(100 * (0.75 + 0) / 2)
    assert metrics['coco_panoptic/RQ_th'] == pytest.approx(100 * (1 / 1.5 + 0) / 2)
    assert metrics['coco_panoptic/PQ_st'] == 0
    assert metrics['coco_panoptic/PQ'] == pytest.approx(100 * 0.5 / 3)


def test_void_and_crowds_excuse_predictions(data):
    truth = np.zeros((4, 10), int)
    truth[:, 4:] = 1000
    prediction = np.full((4, 10), VOID)
    prediction[:, :4] = 1001
    prediction[:, 4:] = 1000
    data.add(truth, {1000}, prediction)
    # The dog lies on void, the cat on a crowd of cats: neither counts, and nothing was to be found.
    assert set(data.evaluate().values()) == {0.0}


def test_it_computes_what_mmdetection_does(data):
    pytest.importorskip('panopticapi', reason='panopticapi is not installed: MMDetection needs it')
    add_random_images(data)
    expected = data.evaluate('CocoPanopticMetric')
    assert 10 < expected['coco_panoptic/PQ'] < 90
    assert data.evaluate() == pytest.approx(expected, rel=1e-12)


def test_the_numbers_of_random_maps_stay(data):
    # What MMDetection 3.3 with panopticapi-lite 0.2 computes of the same maps.
    add_random_images(data)
    expected = dict(PQ=69.622854, SQ=72.135276, RQ=96.516603, PQ_th=69.152863, PQ_st=70.092845)
    metrics = data.evaluate()
    for name, value in expected.items():
        assert metrics[f'coco_panoptic/{name}'] == pytest.approx(value, abs=1e-4), name


def test_results_are_written_as_coco_wants_them(data, tmp_path):
    truth = np.array([[1000, 1000, 0], [2, 2, 0]])
    data.add(truth, set(), np.where(truth == 0, VOID, truth))
    data.evaluate(outfile_prefix=str(tmp_path / 'out/results'))
    (annotation,) = json.loads((tmp_path / 'out/results.panoptic.json').read_text())['annotations']
    assert annotation['file_name'] == '1.png'
    assert annotation['segments_info'] == [
        dict(id=2, category_id=90, area=2),
        dict(id=1000, category_id=3, area=2),
    ]
    written = cv2.imread(str(tmp_path / 'out/results.panoptic/1.png'))[..., ::-1].astype(int)
    np.testing.assert_array_equal(written @ [1, 256, 65536], truth)


def test_results_of_images_of_one_name_in_several_folders_are_different_files(data, tmp_path):
    for _ in range(2):
        data.add(np.array([[1000]]), set(), np.array([[1000]]))
    data.evaluate(outfile_prefix=str(tmp_path / 'results'), name='{}/photo.jpg')
    written = json.loads((tmp_path / 'results.panoptic.json').read_text())['annotations']
    assert [annotation['file_name'] for annotation in written] == ['1/photo.png', '2/photo.png']
    assert (tmp_path / 'results.panoptic/2/photo.png').is_file()


def test_writing_alone_needs_no_truth(data, tmp_path):
    data.add(np.array([[1000]]), set(), np.array([[1000]]))
    data.annotations = []
    assert data.evaluate(format_only=True, outfile_prefix=str(tmp_path / 'results')) == {}
    assert (tmp_path / 'results.panoptic/1.png').is_file()
    with pytest.raises(InputError, match='outfile_prefix'):
        data.evaluate(format_only=True)


def test_a_png_of_another_size_is_named(data):
    data.add(np.array([[1000, 1000]]), set(), np.array([[1000]]))
    with pytest.raises(InputError, match=r"'1.png' is 2 x 1 pixels, but its image 1 x 1"):
        data.evaluate()
