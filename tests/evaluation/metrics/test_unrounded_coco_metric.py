import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from mmdet.registry import METRICS
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmdet_sag.errors import InputError
from mmdet_sag.evaluation.boundary_coco_eval import mask_boundary

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


def on(device, samples):
    for sample in samples:
        sample['pred_instances'] = {key: value.to(device) for key, value in sample['pred_instances'].items()}
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


def test_mask_ap_is_that_of_pycocotools_with_masks_ranked_by_mask_score(ann_file, device):
    metrics = evaluate(ann_file, on(device, predictions()))
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


@pytest.fixture
def squares(tmp_path):
    """An image of 300 x 400 pixels, whose diagonal is 500 and whose boundaries are 10 wide, with two squares of 100."""
    boxes = [[100, 100, 100, 100], [300, 0, 100, 100]]
    annotations = [
        dict(
            id=i, image_id=0, category_id=1, bbox=[x, y, w, h], area=w * h, iscrowd=0,
            segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
        )
        for i, (x, y, w, h) in enumerate(boxes, 1)
    ]  # fmt: skip
    images = [dict(id=0, file_name='0.jpg', width=400, height=300)]
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    path = tmp_path / 'squares.json'
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return str(path)


def found(*boxes):
    """Detections of these masks in that image."""
    masks = np.zeros((len(boxes), 300, 400), bool)
    for mask, (x, y, width, height) in zip(masks, boxes):
        mask[y : y + height, x : x + width] = True
    bboxes = torch.tensor(boxes).float()
    bboxes[:, 2:] += bboxes[:, :2]
    count = len(boxes)
    instances = dict(
        bboxes=bboxes,
        labels=torch.zeros(count, dtype=torch.long),
        scores=torch.linspace(0.9, 0.8, count),
        masks=torch.tensor(masks),
    )
    return [dict(img_id=0, ori_shape=(300, 400), pred_instances=instances)]


@pytest.mark.parametrize(
    ('second', 'boundary_iou'),
    [
        ([300, 0, 100, 100], 1.0),
        # Of 100 x 100 with a boundary of 100² - 80² = 3,600 pixels and 100 x 90 with one of 3,400, 100 x 10 rows and
        # 2 x 80 x 10 columns fall together, and none of the other side, which has moved by its width:
        # 2,600 / (3,600 + 3,400 - 2,600). The masks' IoU is 0.9.
        ([300, 0, 100, 90], 2600 / 4400),
        # Moved by half of its width: 100 x 10 + 2 x 80 x 10 + 80 x 5 + 2 x 5 x 10 of 3,600 and 100 x 95 - 80 x 75.
        ([300, 0, 100, 95], 3100 / (3600 + 3500 - 3100)),
        # A hole of 60 x 60, which the boundary of the object does not see: 100² - 60² of 100². Its own boundary has
        # the same outer 3,600 pixels and 80² - 60² = 2,800 around the hole.
        ('hole', 3600 / 6400),
    ],
    ids=str,
)
def test_boundary_ap_is_by_the_smaller_iou_of_masks_and_boundaries(squares, second, boundary_iou, device):
    boxes = [[100, 100, 100, 100], [300, 0, 100, 100] if second == 'hole' else second]
    samples = found(*boxes)
    if second == 'hole':
        samples[0]['pred_instances']['masks'][1, 20:80, 320:380] = False
    metric = METRICS.build(dict(type='UnroundedCocoMetric', ann_file=squares, metric=['segm', 'boundary']))
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, on(device, samples))
    metrics = metric.evaluate(size=1)
    # The first is right at each threshold, the second at those up to its IoU: then 51 of 101 recalls have precision.
    right = sum(threshold <= boundary_iou + 1e-9 for threshold in np.linspace(0.5, 0.95, 10))
    assert metrics['coco/boundary_mAP'] == pytest.approx((right + (10 - right) * 51 / 101) / 10)
    assert metrics['coco/segm_mAP'] >= metrics['coco/boundary_mAP']


def test_a_small_mask_is_its_own_boundary_and_a_crowd_has_its_masks_iou(squares):
    content = json.loads(Path(squares).read_text())
    content['annotations'][1].update(iscrowd=1)
    Path(squares).write_text(json.dumps(content))
    # The first detection lies in the crowd and is no mistake, though it holds little of its boundary.
    samples = found([330, 30, 40, 40], [100, 100, 100, 100])
    assert evaluate_boundary(squares, samples) == pytest.approx(1)
    small = dict(
        size=[300, 400], counts=mask_utils.encode(np.asfortranarray(np.eye(300, 400, dtype=np.uint8)))['counts']
    )
    assert mask_boundary(small) == small
    empty = mask_utils.encode(np.zeros((300, 400), np.uint8, order='F'))
    assert mask_boundary(empty) == empty


def evaluate_boundary(ann_file, samples):
    metric = METRICS.build(dict(type='UnroundedCocoMetric', ann_file=ann_file, metric='boundary'))
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, samples)
    return metric.evaluate(size=len(samples))['coco/boundary_mAP']


def test_boundary_ap_with_what_mmdetection_computes_is_refused(ann_file):
    for options in (dict(metric=['boundary', 'proposal']), dict(metric='boundary', metric_items=['mAP'])):
        with pytest.raises(InputError, match="'boundary' goes with 'bbox' and 'segm'"):
            METRICS.build(dict(type='UnroundedCocoMetric', ann_file=ann_file, **options))


def test_no_detection_is_an_ap_of_zero(ann_file):
    samples = predictions()
    for sample in samples:
        sample['pred_instances'] = {key: value[:0] for key, value in sample['pred_instances'].items()}
    assert set(evaluate(ann_file, samples).values()) == {0.0}


def test_per_class_results_are_still_to_be_had(ann_file):
    assert 'coco/cat_precision' in evaluate(ann_file, predictions(), classwise=True)


def crowded(tmp_path, first_id=1):
    """An image with more objects than COCO's mAP counts, and predictions that are right in every pixel."""
    boxes = [[4 * column, 4 * row, 3, 3] for row in range(10) for column in range(15)]
    annotations = [
        dict(
            id=first_id + i if isinstance(first_id, int) else f'{first_id}{i}',
            image_id=0,
            category_id=1,
            bbox=box,
            area=9,
            iscrowd=0,
            segmentation=dict(size=[40, 60], counts=encoded(box)['counts'].decode()),
        )
        for i, box in enumerate(boxes)
    ]
    path = tmp_path / 'crowded.json'
    images = [dict(id=0, file_name='0.jpg', width=60, height=40)]
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    bboxes = torch.tensor(boxes).float()
    bboxes[:, 2:] += bboxes[:, :2]
    found = dict(
        bboxes=bboxes,
        labels=torch.zeros(len(boxes), dtype=torch.long),
        scores=torch.linspace(0.1, 0.9, len(boxes)),
        masks=torch.tensor(np.stack([rectangle(*box) for box in boxes])),
    )
    return str(path), [dict(img_id=0, ori_shape=(40, 60), pred_instances=found)]


def encoded(box):
    return mask_utils.encode(np.asfortranarray(rectangle(*box).astype(np.uint8)))


@pytest.mark.parametrize('options', [{}, dict(proposal_nums=(1, 10, 300)), dict(classwise=True)], ids=str)
def test_every_figure_counts_the_same_number_of_detections(tmp_path, options):
    metrics = evaluate(*crowded(tmp_path), **options)
    for metric in ('bbox', 'segm'):
        assert [metrics[f'coco/{metric}_{name}'] for name in ('mAP', 'mAP_50', 'mAP_75', 'mAP_s')] == [1.0] * 4
    if 'classwise' in options:
        assert metrics['coco/cat_precision'] == 1.0


@pytest.mark.parametrize('first_id', [0, -200, 'object '])
def test_objects_count_whatever_their_ids(tmp_path, first_id):
    metrics = evaluate(*crowded(tmp_path, first_id))
    assert metrics['coco/segm_mAP'] == metrics['coco/bbox_mAP'] == 1.0


def test_an_id_that_is_used_twice_is_two_objects(tmp_path):
    ann_file, samples = crowded(tmp_path)
    content = json.loads(Path(ann_file).read_text())
    content['annotations'][1]['id'] = content['annotations'][0]['id']
    Path(ann_file).write_text(json.dumps(content))
    assert evaluate(ann_file, samples)['coco/segm_mAP'] == 1.0


@pytest.mark.parametrize('iou_thrs', [0.5, [0.5, 0.75]], ids=str)
def test_thresholds_may_be_one_or_a_list(ann_file, iou_thrs):
    metrics, all_thresholds = (
        evaluate(ann_file, predictions(), **options) for options in (dict(iou_thrs=iou_thrs), {})
    )
    assert metrics['coco/segm_mAP_50'] == all_thresholds['coco/segm_mAP_50']
    expected = [all_thresholds[f'coco/segm_mAP_{threshold}'] for threshold in (50, 75)]
    assert metrics['coco/segm_mAP'] == pytest.approx(np.mean(expected[:1] if iou_thrs == 0.5 else expected))
    assert metrics['coco/segm_mAP_75'] == (-1 if iou_thrs == 0.5 else expected[1])


def test_recall_of_boxes_is_measured_where_images_have_different_numbers_of_objects(ann_file, device):
    content = json.loads(Path(ann_file).read_text())
    # Three objects, one and none; a crowd region does not count.
    content['annotations'][2]['image_id'] = 0
    content['annotations'][4]['iscrowd'] = 1
    del content['annotations'][5]
    Path(ann_file).write_text(json.dumps(content))
    metric = METRICS.build(
        dict(type='UnroundedCocoMetric', ann_file=ann_file, metric='proposal_fast', proposal_nums=(1, 10), iou_thrs=0.5)
    )
    metric.dataset_meta = dict(classes=CLASSES)
    samples = predictions()
    samples[0]['pred_instances']['bboxes'][:] = torch.tensor([[5.0, 4, 25, 16]])
    samples[1]['pred_instances']['bboxes'][:] = torch.tensor([[14.0, 4, 34, 19]])
    metric.process({}, on(device, samples))
    # One box finds one of the three, another the only one.
    assert metric.evaluate(size=len(samples))['coco/AR@1'] == 0.5


def test_classes_are_listed_with_their_ap(ann_file, device):
    metrics = evaluate(ann_file, on(device, predictions()), classwise=True)
    theirs = evaluate(ann_file, predictions(), 'CocoMetric', classwise=True)
    assert {key: round(value, 3) for key, value in metrics.items()} == {
        key: float(value) for key, value in theirs.items()
    }
