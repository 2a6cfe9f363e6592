import json

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from mmdet.registry import METRICS
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CLASSES = ('cat', 'dog')


def rectangle(x, y, width, height):
    mask = np.zeros((40, 60), bool)
    mask[y : y + height, x : x + width] = True
    return mask


@pytest.fixture
def ann_file(tmp_path):
    annotations = []
    for i in range(6):
        box = [5 + 3 * i, 4, 20, 12 + i]
        polygon = [box[0], 4, box[0] + 20, 4, box[0] + 20, 16 + i, box[0], 16 + i]
        annotations.append(
            dict(
                id=i + 1,
                image_id=i // 2,
                category_id=i % 2 + 1,
                bbox=box,
                area=20 * (12 + i),
                iscrowd=0,
                segmentation=[polygon],
            )
        )
    path = tmp_path / 'annotations.json'
    path.write_text(
        json.dumps(
            dict(
                images=[dict(id=i, file_name=f'{i}.jpg', width=60, height=40) for i in range(3)],
                annotations=annotations,
                categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)],
            )
        )
    )
    return str(path)


def predictions():
    """Three images; the box scores and the mask scores rank the detections differently."""
    rng = np.random.default_rng(0)
    samples = []
    for img_id in range(3):
        count = 6
        boxes = np.array([[5 + 6 * img_id + rng.integers(-2, 3), 4, 20, 12 + img_id] for _ in range(count)])
        samples.append(
            dict(
                img_id=img_id,
                ori_shape=(40, 60),
                pred_instances=dict(
                    bboxes=torch.tensor(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)).float(),
                    labels=torch.tensor(rng.integers(0, 2, count)),
                    scores=torch.tensor(rng.random(count)).float(),
                    mask_scores=torch.tensor(rng.random(count)).float(),
                    masks=torch.tensor(np.stack([rectangle(*box) for box in boxes])),
                ),
            )
        )
    return samples


def evaluate(ann_file, samples, metric_type='UnroundedCocoMetric', **options):
    metric = METRICS.build(dict(type=metric_type, ann_file=ann_file, metric=['bbox', 'segm'], **options))
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, samples)
    return metric.evaluate(size=len(samples))


def plain_segm_ap(ann_file, samples, score):
    ground_truth = COCO(ann_file)
    detections = []
    for sample in samples:
        pred = sample['pred_instances']
        for i in range(len(pred['scores'])):
            rle = mask_utils.encode(np.asfortranarray(pred['masks'][i].numpy().astype(np.uint8)))
            detections.append(
                dict(
                    image_id=sample['img_id'],
                    category_id=int(pred['labels'][i]) + 1,
                    segmentation=rle,
                    score=float(pred[score][i]),
                )
            )
    evaluation = COCOeval(ground_truth, ground_truth.loadRes(detections), 'segm')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats


def test_mask_ap_is_that_of_pycocotools_with_masks_ranked_by_mask_score(ann_file):
    metrics = evaluate(ann_file, predictions())
    expected = plain_segm_ap(ann_file, predictions(), 'mask_scores')
    assert [metrics[f'coco/segm_{name}'] for name in ('mAP', 'mAP_50', 'mAP_75')] == pytest.approx(
        expected[:3], abs=1e-6
    )
    assert metrics['coco/segm_mAP'] != pytest.approx(plain_segm_ap(ann_file, predictions(), 'scores')[0], abs=1e-3)


def test_it_is_mmdetections_metric_but_for_the_rounding(ann_file):
    ours = evaluate(ann_file, predictions())
    theirs = evaluate(ann_file, predictions(), 'CocoMetric')
    assert {key: round(value, 3) for key, value in ours.items()} == theirs
    assert ours != theirs


def test_no_detection_is_an_ap_of_zero(ann_file):
    samples = predictions()
    for sample in samples:
        sample['pred_instances'] = {key: value[:0] for key, value in sample['pred_instances'].items()}
    assert set(evaluate(ann_file, samples).values()) == {0.0}


def test_per_class_results_are_still_to_be_had(ann_file):
    assert 'coco/cat_precision' in evaluate(ann_file, predictions(), classwise=True)
