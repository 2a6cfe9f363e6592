import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from support.panoptic_reference import CONFIGS, MODEL, load_case
from support.reference import make_batch

TTA_CFG = ConfigDict(nms=dict(type='nms', iou_threshold=0.6, split_thr=0), max_per_img=50)


@pytest.fixture(scope='module')
def case(device, without_tf32):
    case = load_case('panoptic_centermask_v39', device=device)
    case.model.eval()
    return case


def view(image, scale=1.0, flip=False):
    """An augmented view of an image as a pipeline gives it."""
    height, width = image.shape[:2]
    resized = cv2.resize(image, None, fx=scale, fy=scale) if scale != 1 else image
    if flip:
        resized = np.ascontiguousarray(resized[:, ::-1])
    batch = make_batch([resized])
    new_height, new_width = resized.shape[:2]
    batch['data_samples'][0].set_metainfo(
        dict(
            ori_shape=(height, width),
            scale_factor=(new_width / width, new_height / height),
            flip=flip,
            flip_direction='horizontal' if flip else None,
        )
    )
    return batch


def augmented(model, *views):
    tta = MODELS.build(dict(type='PanopticCenterMaskTTAModel', module=model, tta_cfg=TTA_CFG))
    return tta.test_step({key: [v[key] for v in views] for key in ('inputs', 'data_samples')})[0]


@torch.no_grad()
def test_one_plain_view_gives_the_plain_result(case):
    image = case.arrays['image']
    plain = case.model.test_step(make_batch([image]))[0]
    tta = augmented(case.model, view(image))
    torch.testing.assert_close(tta.pred_instances.bboxes, plain.pred_instances.bboxes)
    assert (tta.pred_panoptic_seg.sem_seg == plain.pred_panoptic_seg.sem_seg).float().mean() > 0.999


@torch.no_grad()
def test_a_flipped_view_of_a_flipped_image_gives_the_image_back(case):
    image = case.arrays['image']
    plain = augmented(case.model, view(image)).pred_panoptic_seg.sem_seg
    mirrored = np.ascontiguousarray(image[:, ::-1])
    flipped = augmented(case.model, view(mirrored, flip=True)).pred_panoptic_seg.sem_seg
    assert flipped.shape == plain.shape
    assert (flipped.flip(-1) == plain).float().mean() > 0.99


@torch.no_grad()
def test_views_of_several_sizes_are_merged_at_the_original_one(case):
    image = case.arrays['image']
    result = augmented(case.model, view(image), view(image, 1.5, flip=True))
    assert result.pred_panoptic_seg.sem_seg.shape == (1, *image.shape[:2])
    assert result.pred_instances.masks.shape[1:] == image.shape[:2]


def test_the_configs_name_it():
    config = Config.fromfile(CONFIGS / MODEL.format('v39'))
    assert config.tta_model.type == 'PanopticCenterMaskTTAModel'
    assert config.tta_model.tta_cfg.max_per_img == 100
