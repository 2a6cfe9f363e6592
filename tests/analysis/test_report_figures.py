import json
import re

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from matplotlib.axes import Axes
from mmdet.registry import METRICS
from mmengine.fileio import dump, load
from support.odd_images import CLASSES, write_odd_images

from mmdet_sag.analysis import (
    CocoAccuracy,
    DataStatistics,
    GroundTruth,
    ImageResult,
    MatchedImage,
    Outcome,
    ReportPage,
    ScoreThresholds,
    confusion_matrix,
    load_results,
)
from mmdet_sag.analysis.charts import data_chart
from mmdet_sag.analysis.coco_accuracy import THRESHOLDS

SIZE = 100


def mask_of(box):
    bitmap = np.zeros((SIZE, SIZE), np.uint8, order='F')
    x1, y1, x2, y2 = box
    bitmap[y1:y2, x1:x2] = 1
    return mask_utils.encode(bitmap)


def write_truth(path, objects):
    """Ground truth of one image: (label, box) or (label, box, iscrowd) of each object."""
    annotations = []
    for i, (label, box, *crowd) in enumerate(objects, 1):
        mask = mask_of(box)
        x1, y1, x2, y2 = box
        annotations.append(
            dict(
                id=i,
                image_id=1,
                category_id=label + 1,
                bbox=[x1, y1, x2 - x1, y2 - y1],
                area=(x2 - x1) * (y2 - y1),
                iscrowd=int(any(crowd)),
                segmentation=dict(size=mask['size'], counts=mask['counts'].decode()),
            )
        )
    images = [dict(id=1, file_name='1.png', width=SIZE, height=SIZE)]
    categories = [dict(id=i, name=name) for i, name in enumerate('abc', 1)]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return GroundTruth(str(path), '', ('a', 'b', 'c'))


def result_of(detections):
    """Result of one image: (label, score, box) of each detection, the highest score first."""
    labels, scores, boxes = zip(*detections) if detections else ((), (), ())
    return ImageResult(
        image_id=1,
        bboxes=np.array(boxes, dtype=float).reshape(-1, 4),
        scores=np.array(scores, dtype=float),
        labels=np.array(labels, dtype=int),
        masks=[mask_of(box) for box in boxes],
        mask_scores=None,
    )


A, B, CROWD = (10, 10, 40, 40), (50, 50, 90, 90), (0, 60, 40, 100)


@pytest.mark.parametrize(
    'detections, outcomes, missed',
    [
        ([(0, 0.9, A), (1, 0.8, B)], [Outcome.RIGHT, Outcome.RIGHT], 0),
        ([(1, 0.9, A), (1, 0.8, B)], [Outcome.WRONG_CLASS, Outcome.RIGHT], 1),
        ([(0, 0.9, A), (0, 0.8, A)], [Outcome.RIGHT, Outcome.DUPLICATE], 1),
        ([(0, 0.9, (10, 10, 40, 20))], [Outcome.INACCURATE], 2),
        ([(2, 0.9, (60, 0, 90, 30))], [Outcome.NOTHING_THERE], 2),
        ([(0, 0.9, (5, 65, 20, 80))], [Outcome.IN_CROWD], 2),
        ([(0, 0.2, A)], [], 2),
        ([], [], 2),
        # The better mask has the object, though the other class is surer of it.
        ([(2, 0.9, A), (0, 0.8, A)], [Outcome.WRONG_CLASS, Outcome.RIGHT], 1),
    ],
)
def test_each_detection_is_right_or_wrong_in_a_way_that_is_named(tmp_path, detections, outcomes, missed):
    truth = write_truth(tmp_path / 'truth.json', [(0, A), (1, B), (0, CROWD, True)])
    image = MatchedImage(truth, result_of(detections), score_thr=0.3)
    assert image.outcomes == outcomes
    assert len(image.missed) == missed
    counts = confusion_matrix([image], 3)
    # Each object is in the rows once, each detection that counts in the columns once.
    assert counts[:3].sum() == 2
    assert counts[:, :3].sum() == sum(outcome is not Outcome.IN_CROWD for outcome in outcomes)


def test_what_was_taken_for_what_is_in_the_confusion_matrix(tmp_path):
    truth = write_truth(tmp_path / 'truth.json', [(0, A), (1, B)])
    image = MatchedImage(truth, result_of([(1, 0.9, A), (2, 0.8, (0, 70, 30, 100))]), 0.3)
    expected = np.zeros((4, 4), int)
    expected[0, 1] = expected[1, 3] = expected[3, 2] = 1
    np.testing.assert_array_equal(confusion_matrix([image], 3), expected)


def test_without_all_masks_boxes_are_compared_and_drawn(tmp_path):
    """A prediction with the right box and the wrong mask is right, also for an object that has a mask."""
    truth = write_truth(tmp_path / 'truth.json', [(0, A), (1, B), (2, CROWD, True)])
    content = json.loads((tmp_path / 'truth.json').read_text())
    del content['annotations'][1]['segmentation']
    content['annotations'][2]['segmentation'] = []
    (tmp_path / 'truth.json').write_text(json.dumps(content))
    result = result_of([(0, 0.9, A), (1, 0.8, (50, 50, 90, 60)), (2, 0.7, (0, 60, 20, 80))])
    result = result._replace(masks=[mask_of((0, 0, 5, 5))] * 3)
    assert MatchedImage(truth, result, 0.5).outcomes[0] is Outcome.NOTHING_THERE
    truth = GroundTruth(str(tmp_path / 'truth.json'), '', ('a', 'b', 'c'))
    assert (truth.num_without_mask, truth.num_objects) == (2, 3)
    matched = MatchedImage(truth, result, 0.5)
    assert matched.outcomes == [Outcome.RIGHT, Outcome.INACCURATE, Outcome.IN_CROWD]
    assert matched.ious[:2].tolist() == [1, 0.25]
    page = ReportPage(truth, [result], ['red', 'green', 'blue'])
    assert page.thresholds.counts()[0][60] == 1
    assert {name: accuracy.ap(0.5) for name, accuracy in page.accuracies.items()} == {'box': pytest.approx(0.5)}
    assert [mask_utils.area(mask) for mask in truth.masks(1)] == [900, 1600, 1600]
    html = page.render('title', {})
    assert '2 of the 3 annotated objects have no mask' in html
    assert 'mask AP' not in html and 'boundary AP' not in html and 'true IoUs of masks' in html


def test_an_image_is_as_good_as_its_panoptic_quality(tmp_path):
    truth = write_truth(tmp_path / 'truth.json', [(0, A), (1, B)])
    # IoU 2/3 for one of two objects, and one detection too many.
    image = MatchedImage(truth, result_of([(0, 0.9, (10, 10, 40, 30)), (2, 0.8, (60, 0, 90, 30))]), 0.3)
    assert image.quality == pytest.approx((2 / 3) / (1 + 0.5 + 0.5))
    empty = write_truth(tmp_path / 'empty.json', [])
    assert np.isnan(MatchedImage(empty, result_of([]), 0.3).quality)


def test_thresholds_count_what_is_right_and_wrong_above_them(tmp_path):
    truth = write_truth(tmp_path / 'truth.json', [(0, A), (1, B)])
    thresholds = ScoreThresholds(truth, [result_of([(0, 0.9, A), (2, 0.7, A), (1, 0.5, B), (1, 0.2, A)])])
    at = {round(float(value), 2): i for i, value in enumerate(THRESHOLDS)}
    for threshold, precision, recall in ((0.1, 2 / 4, 1), (0.4, 2 / 3, 1), (0.6, 1 / 2, 0.5), (0.9, 1, 0.5)):
        assert thresholds.precision()[at[threshold]] == pytest.approx(precision)
        assert thresholds.recall()[at[threshold]] == pytest.approx(recall)
    assert np.isnan(thresholds.precision()[at[0.95]])
    # F1 is highest from above 0.2 to 0.5.
    assert 0.2 < thresholds.best() <= 0.5
    assert np.isnan(thresholds.best(2))


@pytest.fixture
def odd(tmp_path):
    write_odd_images(tmp_path)
    truth = GroundTruth(str(tmp_path / 'annotations.json'), str(tmp_path / 'images'), CLASSES)
    return truth, load_results(tmp_path / 'results.pkl')


def test_a_model_whose_boxes_have_no_extent_is_judged_by_the_boxes_of_its_masks(odd, tmp_path):
    samples = load(tmp_path / 'results.pkl')
    for sample in samples:
        sample['pred_instances']['bboxes'] *= 0
    dump(samples, tmp_path / 'results.pkl')
    for result, expected in zip(load_results(tmp_path / 'results.pkl'), odd[1]):
        np.testing.assert_array_equal(result.bboxes, expected.bboxes)


def test_ap_is_that_of_the_metric_that_tools_test_uses(odd):
    truth, results = odd
    metric = METRICS.build(dict(type='UnroundedCocoMetric', ann_file=truth.ann_file, metric=['bbox', 'segm']))
    metric.dataset_meta = dict(classes=CLASSES)
    for result in results:
        image = truth.image(result.image_id)
        pred = dict(
            bboxes=torch.from_numpy(result.bboxes),
            scores=torch.from_numpy(result.scores),
            labels=torch.from_numpy(result.labels),
            mask_scores=torch.from_numpy(result.mask_scores),
            masks=result.masks,
        )
        size = (image['height'], image['width'])
        metric.process({}, [dict(img_id=result.image_id, ori_shape=size, pred_instances=pred)])
    expected = metric.evaluate(len(results))
    for kind in ('segm', 'bbox'):
        accuracy = CocoAccuracy(truth, results, kind)
        found = [accuracy.ap(), accuracy.ap(0.5), accuracy.ap(0.75), accuracy.ap(size='small')]
        names = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s')
        np.testing.assert_allclose(found, [expected[f'coco/{kind}_{name}'] for name in names], rtol=1e-9)
        assert 0.2 < found[0] < 0.9
        of_classes = [accuracy.ap(label=label) for label in range(3)]
        assert accuracy.ap() == pytest.approx(np.mean(of_classes))


def test_without_any_detection_ap_is_zero_where_there_is_something_to_find(odd):
    truth, results = odd
    nothing = [result_of([])._replace(image_id=result.image_id) for result in results]
    accuracy = CocoAccuracy(truth, nothing, 'segm')
    assert accuracy.ap() == accuracy.recall() == 0
    assert np.isnan(accuracy.ap(size='large'))


def test_what_looks_wrong_in_a_data_set_is_said(tmp_path):
    truth = write_truth(tmp_path / 'truth.json', [(0, A), (0, A), (1, (5, 5, 7, 7))])
    remarks = ' '.join(DataStatistics(truth).remarks(training=DataStatistics(truth)))
    assert 'uncertain: a (2), b (1).' in remarks
    assert 'there are no figures: c.' in remarks
    assert '1 objects are annotated twice' in remarks
    assert '1 images are missing' in remarks
    assert '1 objects cover fewer than 16 pixels' in remarks
    assert '1 images are also in the training data' in remarks


def test_the_images_with_the_most_objects_are_in_the_chart_too(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Axes, 'hist', lambda axes, values, bins: drawn.append(np.histogram(values, bins)[0].sum()))
    data_chart(DataStatistics(write_truth(tmp_path / 'truth.json', [(0, A)] * 50)))
    assert drawn == [1, 50]


def test_a_detection_with_an_empty_mask_is_shown_as_its_box(tmp_path):
    truth = write_truth(tmp_path / 'truth.json', [(0, A)])
    result = result_of([(0, 0.9, A), (1, 0.8, B)])
    result.masks[1] = mask_of((0, 0, 0, 0))
    html = ReportPage(truth, [result], ['red', 'green', 'blue'], score_thr=0.5).render('page', {})
    note = 'b, score 0.80: no such object is annotated there; its mask is empty, this is its box'
    # A page of 380 pixels shows the image of 100.
    outline = re.search(rf'<title>{note}</title><path d="(.*?)"', html)[1]
    points = np.array(re.findall(r'([\d.]+) ([\d.]+)', outline), dtype=float) / 3.8
    np.testing.assert_allclose([*points.min(axis=0), *points.max(axis=0)], B, atol=1)
