"""Panoptic-CenterMask against the numbers of the reference implementation, see tests/data/golden/README.md."""

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from support.panoptic_reference import (
    DATA,
    SHARED,
    expected_panoptic,
    load_case,
    make_test_batch,
    make_training_batch,
)
from support.reference import LOSSES

ALL_LOSSES = {**LOSSES, 'loss_seg': 'loss_sem_seg'}
# Float32 rounding depends on the CPU and the threads: with AVX2 and one thread, features differ by 1.05e-4 of the
# largest, boxes by 0.012 pixels.
ROUNDING, BOX_ROUNDING = 2e-4, 0.02
FULL_CASES = sorted(path.stem for path in SHARED.glob('panoptic_centermask_*.npz')) or ['none']


@pytest.fixture(scope='module', params=[(DATA, 'panoptic_centermask_v39'), *((SHARED, name) for name in FULL_CASES)])
def case(request, device, without_tf32):
    folder, name = request.param
    if name == 'none':
        pytest.skip(f'{SHARED} is not there: the reference in full')
    return load_case(name, folder, device)


@torch.no_grad()
def test_fpn_outputs_and_semantic_logits_are_those_of_the_reference(case):
    model = case.model.eval()
    batch = model.data_preprocessor(make_test_batch(case))
    feats = model.extract_feat(batch['inputs'])
    assert len(feats) == 6
    for level, feat in zip(('p2', 'p3', 'p4', 'p5', 'p6', 'p7'), feats):
        expected = case.arrays[level]
        channel_step = feat.shape[1] // len(expected)
        step = {'p2': 8, 'p3': 4, 'p4': 2}.get(level, 1)
        actual = feat[0, ::channel_step, ::step, ::step].cpu().numpy()
        assert np.abs(actual - expected).max() <= ROUNDING * np.abs(expected).max(), level

    # The class of all things is the first there and the last here.
    logits = model.semantic_head(feats)['seg_preds'][0].roll(1, dims=0).cpu().numpy()
    expected = case.arrays['sem_logits']
    step = round(logits.shape[1] / expected.shape[1])
    assert np.abs(logits[:, ::step, ::step] - expected).max() <= ROUNDING * np.abs(expected).max()


@torch.no_grad()
def test_instances_are_those_of_the_reference_in_the_same_order(case):
    model = case.model.eval()
    batch = model.data_preprocessor(make_test_batch(case))
    feats = model.instance_feats(model.extract_feat(batch['inputs']))
    detections = model.bbox_head.predict(feats, batch['data_samples'])[0].cpu()
    np.testing.assert_array_equal(detections.labels, case.arrays['labels'])
    np.testing.assert_allclose(detections.bboxes, case.arrays['boxes'], rtol=0, atol=BOX_ROUNDING)
    np.testing.assert_allclose(detections.scores, case.arrays['scores'], rtol=0, atol=1e-4)

    results = model.predict(batch['inputs'], batch['data_samples'])[0].pred_instances.cpu()
    np.testing.assert_allclose(results.scores, case.arrays['scores'], rtol=0, atol=1e-4)
    np.testing.assert_allclose(results.mask_scores, case.arrays['mask_scores'], rtol=0, atol=1e-4)
    for mask, rle in zip(results.masks.numpy(), case.facts['rles'], strict=True):
        if rle is not None:
            expected = mask_utils.decode(rle).astype(bool)
            union = (mask | expected).sum()
            assert union == 0 or (mask & expected).sum() / union >= 0.99


@torch.no_grad()
def test_the_panoptic_map_is_that_of_the_reference(case):
    model = case.model.eval()
    batch = model.data_preprocessor(make_test_batch(case))
    results = model.predict(batch['inputs'], batch['data_samples'])[0]
    actual, expected = results.pred_panoptic_seg.sem_seg[0].cpu().numpy(), expected_panoptic(case)
    assert actual.shape == expected.shape
    assert set(np.unique(actual)) == set(np.unique(expected))
    assert (actual == expected).mean() >= 0.999


def test_losses_are_those_of_the_reference(case):
    model = case.model.train()
    batch = model.data_preprocessor(make_training_batch(case), training=True)
    losses = model(**batch, mode='loss')
    assert set(losses) == set(ALL_LOSSES)
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(case.facts['losses'][ALL_LOSSES[name]], rel=1e-3), name
