from math import sqrt

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import METRICS
from PIL import Image

from mmdet_sag.errors import InputError

SIZE = 40


def sample(truth: np.ndarray, logits: np.ndarray, path: str = 'image.png') -> dict:
    """A result of MMSegmentation, of one channel (sigmoid) or two (softmax)."""
    logits = torch.as_tensor(np.asarray(logits, np.float32))
    predicted = logits > 0.5 if len(logits) == 1 else logits.argmax(dim=0, keepdim=True)
    found = dict(gt_sem_seg=torch.as_tensor(truth)[None], pred_sem_seg=predicted.float(), seg_logits=logits)
    return dict(img_path=str(path), **{key: dict(data=value) for key, value in found.items()})


def figures_of(*samples: dict, **options) -> dict:
    metric = METRICS.build(dict(type='VesselMetric', **options))
    metric.process({}, samples[:1])
    metric.process({}, samples[1:])
    return {key.removeprefix('vessel/'): value for key, value in metric.evaluate(len(samples)).items()}


def test_the_figures_of_ten_pixels_in_two_images(device):
    # 2 of 3 vessels found, 2 of 5 background pixels taken for one; 255 does not count.
    first = sample(np.array([[1, 1, 0, 255]]), np.array([[[0.9, 0.8, 0.6, 0.99]]]))
    second = sample(np.array([[1, 0, 0, 0], [0, 255, 255, 255]]), np.array([[[0.3, 0.8, 0.2, 0.1], [0.3, 0, 1, 1]]]))
    for values in (first, second):
        for name in ('gt_sem_seg', 'pred_sem_seg', 'seg_logits'):
            values[name]['data'] = values[name]['data'].to(device)
    figures = figures_of(first, second)
    # Of the 15 pairs, 0.9 wins 5; 0.8 wins 4 and ties; 0.3 wins 2 and ties.
    auc = (5 + 4.5 + 2.5) / 15
    mcc = (2 * 3 - 2 * 1) / sqrt(4 * 4 * 3 * 5)
    expected = dict(sensitivity=2 / 3, specificity=3 / 5, accuracy=5 / 8, F1=4 / 7, MCC=mcc, AUC=auc)
    assert figures == pytest.approx(expected)


def test_nothing_found_is_no_error():
    figures = figures_of(sample(np.array([[1, 0]]), np.array([[[0.1, 0.2]]])))
    assert figures == dict(sensitivity=0, specificity=1, accuracy=0.5, F1=0, MCC=0, AUC=0)


@pytest.mark.parametrize('num_channels', [1, 2])
@pytest.mark.parametrize('decimals', [1, 6])
def test_the_figures_are_those_of_scikit_learn(num_channels, decimals):
    metrics = pytest.importorskip('sklearn.metrics', reason='needs scikit-learn: pip install scikit-learn')
    generator = np.random.default_rng(0)
    samples, labels, scores = [], [], []
    for _ in range(3):
        truth = generator.random((SIZE, SIZE)) < 0.1
        # With one decimal, most pairs are ties.
        score = np.round(generator.normal(0.3 + 0.3 * truth, 0.2), decimals).astype(np.float32)
        channels = score[None] if num_channels == 1 else np.stack([1 - score, score])
        samples.append(sample(truth.astype(np.uint8), channels))
        labels.append(truth.ravel())
        scores.append(score.ravel() if num_channels == 1 else (channels[1] - channels[0]).ravel())
    truth, scores = np.concatenate(labels), np.concatenate(scores)
    found = scores > (0.5 if num_channels == 1 else 0)
    expected = dict(
        sensitivity=metrics.recall_score(truth, found),
        specificity=metrics.recall_score(~truth, ~found),
        accuracy=metrics.accuracy_score(truth, found),
        F1=metrics.f1_score(truth, found),
        MCC=metrics.matthews_corrcoef(truth, found),
        AUC=metrics.roc_auc_score(truth, scores),
    )
    assert figures_of(*samples) == pytest.approx(expected, abs=1e-9)


def test_the_field_of_view_is_that_of_the_image_or_of_a_mask(tmp_path):
    # A bright square with a dark spot, and a small bright mark outside.
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    field = np.zeros((SIZE, SIZE), bool)
    field[8:33, 8:33] = True
    image[field] = (0, 0, 90)
    image[15:18, 15:18] = 0
    image[1:3, 1:3] = 200
    path = tmp_path / '07.png'
    cv2.imwrite(str(path), image)
    masks = tmp_path / 'masks'
    masks.mkdir()
    Image.fromarray(field.astype(np.uint8) * 255).save(masks / '07_test_mask.gif')
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(masks / '071.gif')
    truth = np.zeros((SIZE, SIZE), np.uint8)
    truth[20, 10:30] = truth[0, 0] = 1
    result = sample(truth, np.where(truth, 0.9, 0.1)[None] - np.eye(SIZE)[None] * 0.5, path)
    for field_of_view in (20, str(masks)):
        figures = figures_of(result, field_of_view=field_of_view)
        # Of the 20 pixels inside, that on the diagonal is not found.
        assert figures['fov_sensitivity'] == 19 / 20
        assert figures['fov_accuracy'] == 1 - 1 / field.sum()
        assert figures['sensitivity'] == 19 / 21
    with pytest.raises(InputError, match=r"field_of_view='.*nowhere' has no mask 07\.\* or 07_\*"):
        figures_of(result, field_of_view=str(tmp_path / 'nowhere'))
    with pytest.raises(InputError, match='nothing in .*07.png is brighter than field_of_view=200'):
        figures_of(result, field_of_view=200)


def test_labels_that_cannot_be_meant_are_refused():
    with pytest.raises(InputError, match='of 1 labelled pixels, 0 are vessels: in label images, background is 0 and'):
        figures_of(sample(np.array([[255, 0]]), np.array([[[0.1, 0.2]]])))
    with pytest.raises(InputError, match='the labels of image.png have 2x1 pixels, and the prediction 3x1'):
        figures_of(sample(np.array([[1, 0]]), np.array([[[0.1, 0.2, 0.3]]])))
