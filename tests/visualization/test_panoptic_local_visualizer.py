import numpy as np
import torch
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData

META = dict(classes=('cat', 'sky'), palette=[(250, 0, 0), (0, 0, 250)])


def draw(kind, **fields):
    visualizer = VISUALIZERS.get(kind)()
    visualizer.dataset_meta = META
    image = np.full((80, 120, 3), 100, np.uint8)
    visualizer.add_datasample('image', image, DetDataSample(**fields), draw_gt=False)
    return visualizer.get_image()


def panoptic(value):
    return PixelData(sem_seg=torch.full((1, 80, 120), value))


def instances():
    masks = torch.zeros(1, 80, 120, dtype=torch.bool)
    masks[0, 10:50, 10:50] = True
    return InstanceData(
        bboxes=torch.tensor([[10.0, 10, 50, 50]]), scores=torch.tensor([0.9]), labels=torch.tensor([0]), masks=masks
    )


def test_instances_are_not_drawn_below_a_panoptic_segmentation():
    alone = draw('PanopticLocalVisualizer', pred_panoptic_seg=panoptic(1))
    both = draw('PanopticLocalVisualizer', pred_panoptic_seg=panoptic(1), pred_instances=instances())
    np.testing.assert_array_equal(both, alone)
    assert (alone[..., 2] > 150).mean() > 0.5


def test_the_sample_keeps_its_instances():
    visualizer = VISUALIZERS.get('PanopticLocalVisualizer')()
    visualizer.dataset_meta = META
    sample = DetDataSample(pred_panoptic_seg=panoptic(1), pred_instances=instances())
    visualizer.add_datasample('image', np.zeros((80, 120, 3), np.uint8), sample)
    assert len(sample.pred_instances) == 1


def test_a_prediction_of_nothing_at_all_is_the_image():
    assert (draw('PanopticLocalVisualizer', pred_panoptic_seg=panoptic(2)) == 100).all()


def test_without_a_panoptic_segmentation_it_draws_what_mmdetection_does():
    np.testing.assert_array_equal(
        draw('PanopticLocalVisualizer', pred_instances=instances()).shape, draw('DetLocalVisualizer').shape
    )
    assert (draw('PanopticLocalVisualizer', pred_instances=instances()) != 100).any()
