import sys

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData

from mmdet_sag.structures.mask import RLEMasks, place_rle
from mmdet_sag.visualization import draw_instances

CLASSES = ('insulator', 'défaut', '缺陷')
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def detections(number, height, width, kind='rle'):
    generator = np.random.default_rng(0)
    boxes, masks = [], []
    for _ in range(number):
        w, h = (int(generator.integers(4, max(side // 3, 5))) for side in (width, height))
        x, y = int(generator.integers(0, width - w)), int(generator.integers(0, height - h))
        boxes.append([x, y, x + w, y + h])
        masks.append(place_rle(np.ones((h, w), bool), x, y, height, width))
    found = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(number) % 3,
        scores=torch.linspace(0.9, 0.3, number),
    )
    if kind != 'boxes':
        rle = RLEMasks(masks, height, width)
        found.masks = rle if kind == 'rle' else rle.to_tensor()
    return found


@pytest.mark.parametrize('size', [(40, 60), (90, 1800), (1800, 90), (700, 900)])
@pytest.mark.parametrize('number', [0, 3, 50])
def test_pictures_of_all_shapes_and_numbers_keep_the_shape_of_the_image(size, number):
    image = np.full((*size, 3), 100, np.uint8)
    picture = draw_instances(image, detections(number, *size), CLASSES, COLOURS)
    zoom = picture.shape[1] // size[1]
    assert picture.shape[1] == zoom * size[1]
    # Names of many detections stand in a strip below.
    assert (picture.shape[0] > zoom * size[0]) == (number == 50)
    assert draw_instances(image, detections(number, *size), CLASSES, strip=False).shape[0] == zoom * size[0]
    assert ((picture[: zoom * size[0]] != 100).any()) == (number > 0)


def test_masks_have_the_colours_of_their_classes_and_boxes_stand_in_where_there_are_none():
    image = np.full((600, 600, 3), 100, np.uint8)
    found = detections(2, 600, 600)
    picture = draw_instances(image, found, CLASSES, COLOURS)
    np.testing.assert_array_equal(picture, draw_instances(image, detections(2, 600, 600, 'bitmaps'), CLASSES, COLOURS))
    x1, y1, x2, y2 = found.bboxes[0].int().tolist()
    blue, green, red = picture[(y1 + y2) // 2, (x1 + x2) // 2].tolist()
    assert red > 150 and max(blue, green) < 100
    boxes = draw_instances(image, detections(2, 600, 600, 'boxes'), CLASSES, COLOURS)
    assert boxes[(y1 + y2) // 2, (x1 + x2) // 2].tolist() == [100, 100, 100]
    assert (boxes != 100).any()


def test_a_detection_with_an_empty_mask_is_drawn_as_its_box():
    image = np.full((600, 600, 3), 100, np.uint8)
    found = detections(1, 600, 600, 'bitmaps')
    found.masks = torch.zeros_like(found.masks)
    expected = draw_instances(image, detections(1, 600, 600, 'boxes'), CLASSES, COLOURS)
    np.testing.assert_array_equal(draw_instances(image, found, CLASSES, COLOURS), expected)


def test_names_in_a_script_that_the_usual_font_lacks_are_drawn_in_a_font_that_has_it():
    image = np.full((600, 600, 3), 100, np.uint8)
    for number in (1, 50):
        first, second = (draw_instances(image, detections(number, 600, 600), (name,) * 3) for name in ('Ⓐ', 'Ⓑ'))
        assert (first != second).any()


def test_names_that_no_font_has_are_said_once_and_drawn_as_boxes(monkeypatch):
    said = []
    monkeypatch.setattr(sys.modules[draw_instances.__module__], 'print_log', lambda message, *_: said.append(message))
    image = np.full((600, 600, 3), 100, np.uint8)
    # Of the private use area.
    first, _, second = (draw_instances(image, detections(1, 600, 600), (name,) * 3) for name in '\uf8f0\uf8f0\uf8f1')
    np.testing.assert_array_equal(first, second)
    assert len(said) == 2 and all('install a font' in message for message in said)


def test_a_model_of_one_class_has_a_colour_for_each_detection():
    image = np.full((600, 600, 3), 100, np.uint8)
    found = detections(3, 600, 600)
    found.labels = torch.zeros(3, dtype=torch.long)
    centres = found.bboxes.view(3, 2, 2).mean(1).int().tolist()
    colours = {tuple(draw_instances(image, found, ('cell',), [(255, 0, 0)])[y, x].tolist()) for x, y in centres}
    assert len(colours) == 3


def test_names_that_would_cover_each_other_become_a_strip():
    image = np.full((600, 600, 3), 100, np.uint8)
    found = detections(1, 600, 600)
    crowd = InstanceData.cat([found] * 20)
    assert draw_instances(image, found, CLASSES, COLOURS).shape == image.shape
    assert draw_instances(image, crowd, CLASSES, COLOURS).shape[0] > 600
    assert draw_instances(image, crowd, CLASSES, COLOURS, strip=False).shape == image.shape


def test_ground_truth_has_names_without_scores_and_masks_of_mmdetection():
    image = np.full((600, 600, 3), 100, np.uint8)
    found = detections(2, 600, 600, 'bitmaps')
    del found.scores
    picture = draw_instances(image, found, CLASSES, COLOURS)
    truth = InstanceData(bboxes=HorizontalBoxes(found.bboxes), labels=found.labels)
    truth.masks = BitmapMasks(found.masks.numpy().astype(np.uint8), 600, 600)
    np.testing.assert_array_equal(draw_instances(image, truth, CLASSES, COLOURS), picture)
