"""Our models against the numbers of CenterMask's first implementation, see tests/data/golden/README.md."""

import json
import os
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from mmdet.structures.bbox import bbox2roi
from mmengine.structures import InstanceData
from support.reference import DATA, load_first_case, make_batch, read_arrays, read_image, read_json

CASE = 'first_centermask-lite_v39'
# The cases as the reference wrote them, of which the one above is cut out.
ALL_CASES = Path(os.environ.get('MMDET_SAG_GOLDEN', Path(__file__).parents[3] / 'shared/golden'))
NAMES = sorted(path.stem for path in ALL_CASES.glob('first_*.json'))


@pytest.fixture(
    scope='module',
    params=[
        CASE,
        *(f'whole {name}' for name in NAMES),
        *(
            [pytest.param('whole', marks=pytest.mark.skip(f'no cases in {ALL_CASES} (MMDET_SAG_GOLDEN)'))]
            if not NAMES
            else []
        ),
    ],
)
def case(request, device, without_tf32):
    name = request.param.rpartition(' ')[-1]
    if name == request.param:
        arrays = {**read_arrays(DATA / f'{name}.npz'), 'image': read_image(f'{name}.png')}
        facts = read_json(f'{name}.json.gz')
    else:
        arrays = read_arrays(ALL_CASES / f'{name}.npz')
        facts = json.loads((ALL_CASES / f'{name}.json').read_text())
    return load_first_case(arrays, facts, device)


def batch_of(case, original=False):
    """The case's image as the network gets it, resized from the original one if asked."""
    image = case.arrays['image']
    batch = make_batch([image])
    if original:
        height, width = case.facts['original']['rles'][0]['size']
        batch['data_samples'][0].set_metainfo(
            dict(ori_shape=(height, width), scale_factor=(image.shape[1] / width, image.shape[0] / height))
        )
    return case.model.eval().data_preprocessor(batch)


def masks_of(rles):
    return [mask_utils.decode(rle).astype(bool) for rle in rles]


def iou(mask, other):
    union = (mask | other).sum()
    return 1.0 if union == 0 else (mask & other).sum() / union


def stored_probs(case):
    """The reference's mask probabilities, and of which detections they are."""
    probs = case.arrays['mask_probs']
    probs = probs / 65535 if probs.dtype == np.uint16 else probs
    return probs, slice(None, None, len(case.arrays['boxes']) // len(probs))


@torch.no_grad()
def test_features_and_box_predictions_are_those_of_the_reference(case):
    feats = case.model.extract_feat(batch_of(case)['inputs'])
    outputs = dict(zip(('', 'cls_', 'reg_', 'ctr_'), (feats, *case.model.bbox_head(feats))))
    for name, levels in outputs.items():
        for level, feat in zip(('p3', 'p4', 'p5', 'p6', 'p7'), levels):
            if name + level not in case.arrays:
                continue
            expected = case.arrays[name + level]
            step = {'p3': 4, 'p4': 2}.get(level, 1)
            actual = feat[0, :: feat.shape[1] // len(expected), ::step, ::step].cpu().numpy()
            assert np.abs(actual - expected).max() <= 3e-4 * np.abs(expected).max(), name + level


@torch.no_grad()
def test_detections_are_those_of_the_reference_in_the_same_order(case):
    model, arrays = case.model, case.arrays
    batch = batch_of(case)
    feats = model.extract_feat(batch['inputs'])
    detections = model.bbox_head.predict(feats, batch['data_samples'])[0]
    found = detections.cpu()
    np.testing.assert_array_equal(found.labels, arrays['labels'])
    np.testing.assert_allclose(found.bboxes, arrays['boxes'], rtol=0, atol=0.1)
    np.testing.assert_allclose(found.scores, arrays['scores'], rtol=0, atol=2e-4)

    rois = bbox2roi([detections.bboxes])
    img_areas = rois.new_full((len(rois),), float(np.prod(arrays['image'].shape[:2])))
    levels = model.roi_head.mask_roi_extractor.map_roi_levels(rois, img_areas)
    np.testing.assert_array_equal(levels.cpu(), arrays['roi_level'])

    mask_logits, _ = model.roi_head(feats, [detections], batch['data_samples'])
    expected, of_detections = stored_probs(case)
    mask_probs = mask_logits[range(len(rois)), detections.labels].sigmoid()[of_detections].cpu()
    np.testing.assert_allclose(mask_probs, expected, rtol=0, atol=5e-3)


@torch.no_grad()
def test_results_are_those_of_the_reference(case):
    batch = batch_of(case, original=True)
    results = case.model.predict(batch['inputs'], batch['data_samples'], rescale=True)[0].pred_instances.cpu()
    xywh = torch.cat([results.bboxes[:, :2], results.bboxes[:, 2:] - results.bboxes[:, :2]], dim=1)
    np.testing.assert_allclose(xywh, case.facts['original']['boxes_xywh'], rtol=0, atol=0.1)
    np.testing.assert_allclose(results.scores, case.arrays['scores'], rtol=0, atol=2e-4)
    assert ('mask_scores' in results) == ('mask_scores' in case.arrays)
    if 'mask_scores' in results:
        np.testing.assert_allclose(results.mask_scores, case.arrays['mask_scores'], rtol=0, atol=1e-3)


@torch.no_grad()
def test_final_masks_are_those_of_the_reference(case):
    batch = batch_of(case)
    results = case.model.predict(batch['inputs'], batch['data_samples'], rescale=True)[0].pred_instances.cpu()
    _, of_detections = stored_probs(case)
    for mask, expected in zip(results.masks.numpy()[of_detections], masks_of(case.facts['rles']), strict=True):
        assert iou(mask, expected) >= 0.995


@torch.no_grad()
@pytest.mark.parametrize('original', [False, True])
def test_the_references_mask_probabilities_are_pasted_to_its_masks(case, original):
    probs, of_detections = stored_probs(case)
    labels = torch.from_numpy(case.arrays['labels'][of_detections])
    logits = torch.zeros(len(labels), 80, 28, 28)
    logits[range(len(labels)), labels] = torch.from_numpy(probs).double().logit().float()
    detections = InstanceData(
        bboxes=torch.from_numpy(case.arrays['boxes'][of_detections].copy()),
        scores=torch.from_numpy(case.arrays['scores'][of_detections].copy()),
        labels=labels,
    )
    img_metas = [sample.metainfo for sample in batch_of(case, original)['data_samples']]
    (results,) = case.model.roi_head.predict_by_feat(logits, None, [detections], img_metas, rescale=True)
    rles = case.facts['original']['rles'] if original else case.facts['rles']
    for mask, expected in zip(results.masks.numpy(), masks_of(rles), strict=True):
        assert iou(mask, expected) >= 0.995
        if case.arrays['mask_probs'].dtype != np.uint16:
            assert (mask != expected).sum() <= 1
