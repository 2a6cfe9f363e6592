import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData

CLASSES, PALETTE = ('a', 'b'), [(255, 0, 0), (0, 0, 255)]


@pytest.fixture
def visualizer():
    visualizer = VISUALIZERS.get('InstanceLocalVisualizer')()
    visualizer.dataset_meta = dict(classes=CLASSES, palette=PALETTE)
    return visualizer


def instances(number, **fields):
    boxes = torch.tensor([[20.0, 20.0, 60.0, 50.0]]).repeat(number, 1)
    return InstanceData(bboxes=boxes, labels=torch.zeros(number, dtype=torch.long), **fields)


def test_ground_truth_stands_beside_predictions_also_if_one_of_them_has_a_strip(visualizer, tmp_path):
    sample = DetDataSample(gt_instances=instances(1), pred_instances=instances(30, scores=torch.full((30,), 0.9)))
    visualizer.add_datasample(
        'image', np.zeros((64, 96, 3), np.uint8), sample, out_file=str(tmp_path / 'x.png'), pred_score_thr=0.5
    )
    picture = cv2.imread(str(tmp_path / 'x.png'))
    np.testing.assert_array_equal(picture[..., ::-1], visualizer.get_image())
    zoom = 8
    assert picture.shape[1] == 2 * zoom * 96 and picture.shape[0] > zoom * 64
    # The left edge of both boxes, in the class's colour.
    for left in (20 * zoom, (96 + 20) * zoom):
        assert picture[40 * zoom, left - 2 : left + 3, 2].max() == 255


def test_predictions_below_the_threshold_are_not_drawn(visualizer):
    image = np.full((64, 96, 3), 100, np.uint8)
    visualizer.add_datasample('x', image, DetDataSample(pred_instances=instances(1, scores=torch.tensor([0.2]))))
    assert (visualizer.get_image() == 100).all()


def test_the_picture_of_a_format_that_cannot_be_written_is_a_png_file(visualizer, tmp_path):
    visualizer.add_datasample('x', np.zeros((64, 96, 3), np.uint8), out_file=str(tmp_path / 'x.jfif'))
    assert cv2.imread(str(tmp_path / 'x.jfif.png')).shape == (64, 96, 3)


def panoptic():
    ids = torch.ones(1, 64, 96, dtype=torch.long)
    ids[0, 20:50, 20:60] = 1000
    # Of no class.
    ids[0, 60:] = 2
    return PixelData(sem_seg=ids)


@pytest.mark.parametrize('kind', ['InstanceLocalVisualizer', 'PanopticLocalVisualizer'])
def test_segments_are_drawn_in_place_of_instances(kind):
    visualizer = VISUALIZERS.get(kind)()
    visualizer.dataset_meta = dict(classes=CLASSES, palette=PALETTE)
    image = np.full((64, 96, 3), 100, np.uint8)
    sample = DetDataSample(pred_panoptic_seg=panoptic(), gt_sem_seg=PixelData(sem_seg=torch.full((1, 64, 96), 255)))
    visualizer.add_datasample('x', image, sample, draw_gt=False)
    alone = visualizer.get_image()
    thing, stuff, nothing = (alone[8 * y, 8 * 90 if y != 35 else 8 * 40].tolist() for y in (35, 55, 63))
    assert thing[0] > thing[2] and stuff[2] > stuff[0] and nothing == [100, 100, 100]
    sample.pred_instances = instances(1, scores=torch.tensor([0.9]))
    visualizer.add_datasample('x', image, sample)
    np.testing.assert_array_equal(visualizer.get_image()[:, 8 * 96 :], alone)
    assert (visualizer.get_image()[:, : 8 * 96] == 100).all() and len(sample.pred_instances) == 1
