import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

import mmdet_sag  # noqa: F401

STATISTICS = [
    dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0]),
    dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    {},
]


def sample(instances, poly2mask, colour=(0, 0, 255)):
    """A packed sample of 40x60 pixels of one BGR colour, flipped and resized to 80x120."""
    init_default_scope('mmdet')
    steps = [
        dict(type='LoadMaskOrBoxAnnotations', with_bbox=True, with_mask=True, poly2mask=poly2mask),
        dict(type='Resize', scale=(120, 80), keep_ratio=True),
        dict(type='RandomFlip', prob=1.0, direction='diagonal'),
        dict(type='PackDetInputs'),
    ]
    image = np.full((40, 60, 3), colour, np.uint8)
    return Compose(steps)(dict(img=image, img_shape=(40, 60), ori_shape=(40, 60), instances=instances, img_id=1))


def instance(**mask):
    return dict(bbox=[10.0, 5, 30, 25], bbox_label=0, ignore_flag=0, **mask)


def prepare(samples, **options):
    preprocessor = MODELS.build(
        dict(type='BoxSupervisedDataPreprocessor', pad_mask=True, pad_size_divisor=32, **options)
    )
    batch = {key: [each[key] for each in samples] for key in samples[0]}
    return preprocessor(batch, True)


@pytest.mark.parametrize('poly2mask', [True, False])
def test_an_object_without_mask_is_loaded_and_marked(poly2mask):
    square = [[10.0, 5, 30, 5, 30, 25, 10, 25]]
    mixed = sample([instance(mask=square), instance(), instance(mask=[[1.0, 2, 3, 4]])], poly2mask)
    full = sample([instance(mask=square)], poly2mask)
    empty = sample([], poly2mask)
    samples = prepare([mixed, full, empty])['data_samples']
    # A broken polygon is ignored, as MMDetection does.
    assert samples[0].gt_instances.has_mask.tolist() == [True, False]
    assert samples[0].gt_instances.bboxes.tolist() == [[60, 30, 100, 70]] * 2
    assert samples[1].gt_instances.has_mask.tolist() == [True]
    assert samples[2].gt_instances.has_mask.tolist() == []
    assert ['lab_images' in each.gt_instances for each in samples] == [True, False, False]


@pytest.mark.parametrize('statistics', STATISTICS, ids=['bgr', 'rgb', 'unnormalized'])
def test_colours_are_those_of_the_image_as_it_is_shown(statistics):
    batch = prepare([sample([instance()], False)], **statistics)
    (lab_image,) = batch['data_samples'][0].gt_instances.lab_images
    assert lab_image.shape == batch['inputs'][0].shape
    # Red in CIELAB under D65.
    torch.testing.assert_close(lab_image[:, 40, 60], torch.tensor([53.24, 80.09, 67.20]), atol=0.05, rtol=0)


def test_a_grey_image_of_one_channel_has_no_colours_but_lightness():
    packed = sample([instance()], False, colour=(128, 128, 128))
    grey = dict(packed, inputs=packed['inputs'][:1])
    batch = prepare([grey], mean=[100.0], std=[50.0])
    (lab_image,) = batch['data_samples'][0].gt_instances.lab_images
    torch.testing.assert_close(lab_image[:, 40, 60], torch.tensor([53.59, 0.0, 0.0]), atol=0.05, rtol=0)
