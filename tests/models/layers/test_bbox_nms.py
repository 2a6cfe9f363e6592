import pytest
import torch
from mmcv.ops import batched_nms

from mmdet_sag.models.layers import class_by_class_nms

pytest.importorskip('torchvision')


def random_boxes(generator, count=600, extent=1400.0):
    """Boxes that overlap a lot, many of them off the image on every side."""
    centres = torch.rand(count, 2, generator=generator) * extent - 0.2 * extent
    centres = (
        centres[torch.randint(count // 600, (count,), generator=generator)]
        + torch.randn(count, 2, generator=generator) * 8
    )
    sides = torch.rand(count, 2, generator=generator) * 80 + 1
    return torch.cat([centres - sides, centres + sides], dim=1)


@pytest.mark.parametrize('seed', range(20))
def test_it_is_nms_of_each_class_alone(seed):
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(generator)
    scores = torch.rand(len(boxes), generator=generator)
    labels = torch.randint(20 if seed % 2 else 3, (len(boxes),), generator=generator)
    _, expected = batched_nms(boxes, scores, labels, dict(type='nms', iou_threshold=0.6, split_thr=0))
    torch.testing.assert_close(class_by_class_nms(boxes, scores, labels, 0.6), expected)
    assert 0 < len(expected) < len(boxes)


def test_no_box():
    assert len(class_by_class_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long), 0.6)) == 0
