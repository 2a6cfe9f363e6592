import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.registry import init_default_scope
from support.tiny_semi import semi_rectangles_config
from support.tiny_training import write_rectangles

from mmdet_sag.errors import InputError


def built(**config):
    init_default_scope('mmdet')
    return TRANSFORMS.build(config)


def test_colours_are_those_of_torchvision_in_rgb():
    image = np.zeros((4, 6, 3), np.uint8)
    image[..., 2] = 255
    grey = built(type='TorchvisionColour', name='RandomGrayscale', p=1.0)(dict(img=image))['img']
    # Red is 0.299 of the brightness, and OpenCV's images have it last.
    assert grey.dtype == np.uint8
    assert (grey == 76).all()


def test_what_moves_pixels_is_refused():
    with pytest.raises(InputError, match='RandomHorizontalFlip'):
        built(type='TorchvisionColour', name='RandomHorizontalFlip')


@pytest.mark.parametrize('prob', [0.0, 1.0])
def test_a_rectangle_of_the_given_area_and_aspect_becomes_noise(prob):
    torch.manual_seed(0)
    image = np.full((100, 200, 3), 7, np.uint8)
    erasing = built(type='RandomNoiseErasing', prob=prob, area=(0.05, 0.2), aspect=(0.3, 3.3))
    for _ in range(20):
        changed = (erasing(dict(img=image))['img'] != 7).any(-1)
        assert (image == 7).all()
        if prob == 0:
            assert not changed.any()
            continue
        rows, columns = changed.any(1).nonzero()[0], changed.any(0).nonzero()[0]
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert 0.045 < height * width / changed.size < 0.21
        assert 0.27 < height / width < 3.7
        assert changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].mean() > 0.98


def test_boxes_and_masks_of_both_views_are_the_same(tmp_path):
    write_rectangles(tmp_path)
    init_default_scope('mmdet')
    dataset = DATASETS.build(semi_rectangles_config(tmp_path).train_dataloader.dataset)
    differing = 0
    for index in range(3):
        for _ in range(4):
            item = dataset[index]
            weak, strong = (item['data_samples'][name] for name in ('sup_weak', 'sup_strong'))
            assert weak.img_shape == strong.img_shape == tuple(item['inputs']['sup_weak'].shape[1:])
            assert (weak.gt_instances.bboxes.tensor == strong.gt_instances.bboxes.tensor).all()
            masks = [view.gt_instances.masks.to_ndarray() for view in (weak, strong)]
            assert (masks[0] == masks[1]).all()
            differing += bool((item['inputs']['sup_weak'] != item['inputs']['sup_strong']).any())
            # The bright rectangle of the weak view lies on the strong view's mask.
            bright = item['inputs']['sup_weak'].numpy().max(0) > 200
            assert masks[1].any(0)[bright].mean() > 0.9
    assert differing > 6
    assert dataset[4]['data_samples']['sup_weak'] is None
    assert len(dataset[4]['data_samples']['unsup_student'].gt_instances) == 0
