import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from support.reference import load_case, make_batch, read_image

TTA_CFG = ConfigDict(nms=dict(type='nms', iou_threshold=0.6, split_thr=0), max_per_img=100)


@pytest.fixture(scope='module')
def model(device, without_tf32):
    return load_case('centermask-lite_v19-slim', device).model.eval()


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
    tta = MODELS.build(dict(type='CenterMaskTTAModel', module=model, tta_cfg=TTA_CFG))
    return tta.test_step({key: [v[key] for v in views] for key in ('inputs', 'data_samples')})[0].pred_instances


def best(instances, count=20):
    return instances[instances.scores.sort(descending=True).indices[:count]]


@torch.no_grad()
def test_one_plain_view_gives_the_plain_result(model):
    image = read_image()
    plain = model.test_step(make_batch([image]))[0].pred_instances
    not_resized = view(image)
    del not_resized['data_samples'][0].scale_factor
    tta = augmented(model, not_resized)
    torch.testing.assert_close(tta.bboxes, plain.bboxes)
    torch.testing.assert_close(tta.mask_scores, plain.mask_scores)
    assert (tta.masks.to_tensor() != plain.masks.to_tensor()).float().mean() < 1e-4


@torch.no_grad()
def test_a_flipped_view_of_a_flipped_image_gives_the_image_back(model):
    image = read_image()
    mirrored = np.ascontiguousarray(image[:, ::-1])
    plain = best(augmented(model, view(image)))
    flipped = best(augmented(model, view(mirrored, flip=True)))
    width = image.shape[1]
    expected = plain.bboxes.cpu()[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([width, 0, width, 0])
    torch.testing.assert_close(flipped.bboxes.cpu(), expected, rtol=1e-3, atol=0.05)
    assert (flipped.masks.to_tensor().flip(-1) != plain.masks.to_tensor()).float().mean() < 5e-3


@torch.no_grad()
def test_masks_of_several_views_are_averaged_in_the_original_frame(model):
    image = read_image()
    result = augmented(model, view(image), view(image, flip=True), view(image, 1.5), view(image, 1.5, flip=True))
    assert len(result) == 100
    assert result.masks.shape[1:] == image.shape[:2]
    assert result.mask_scores.shape == (100,) and result.mask_scores.isfinite().all()
    assert result.bboxes[:, 2].max() <= image.shape[1] and result.bboxes.min() >= 0


@torch.no_grad()
def test_views_without_detections_give_an_empty_result(model):
    bias = model.bbox_head.conv_cls.bias
    saved = bias.clone()
    bias.fill_(-100.0)
    image = read_image()
    result = augmented(model, view(image), view(image, 1.5, flip=True))
    bias.copy_(saved)
    assert len(result) == 0 and result.masks.shape == (0, *image.shape[:2])
