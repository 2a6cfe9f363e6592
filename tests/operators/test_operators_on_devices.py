"""Torchvision's operators in the place of mmcv's, on a GPU and in half precision: as in float32 on the CPU."""

import mmcv.ops
import pytest
import torch
from support.which_operators import put_behind_mmcv, torchvision_operators

from mmdet_sag.models.dense_heads.centermask_fcos_head import class_by_class_nms

# Operators, their inputs, and of which of them a gradient is computed.
DIFFERENTIABLE = {
    'RoIAlign': (lambda x, rois: mmcv.ops.roi_align(x, rois, (7, 7), 0.25, 0, 'avg', True), ('features', 'rois'), 1),
    'RoIPool': (lambda x, rois: mmcv.ops.roi_pool(x, rois, (7, 7), 0.25), ('features', 'rois'), 1),
    'focal loss': (
        lambda x: mmcv.ops.sigmoid_focal_loss(x, torch.arange(len(x), device=x.device) % 81, 2.0, 0.25, None, 'none'),
        ('logits',),
        1,
    ),
    'deformable conv': (
        lambda x, *tensors: mmcv.ops.deform_conv2d(x, *tensors, 1, 1, 1, 1, 1),
        ('features', 'offset', 'weight'),
        3,
    ),
    'modulated deformable conv': (
        lambda x, *tensors: mmcv.ops.modulated_deform_conv2d(x, *tensors, None, 1, 1, 1, 1, 1),
        ('features', 'offset', 'modulation', 'weight'),
        4,
    ),
}
SELECTIONS = {
    'nms': lambda boxes, scores, labels: mmcv.ops.nms(boxes, scores, 0.5)[1],
    'soft_nms': lambda boxes, scores, labels: mmcv.ops.soft_nms(boxes, scores, 0.5)[1],
    'batched_nms': lambda *tensors: mmcv.ops.batched_nms(*tensors, dict(type='nms', iou_threshold=0.5))[1],
    'class_by_class_nms': lambda *tensors: class_by_class_nms(*tensors, 0.5),
}


@pytest.fixture(autouse=True)
def operators(monkeypatch):
    put_behind_mmcv(torchvision_operators(), monkeypatch)


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return dict(
        features=torch.randn(2, 16, 24, 32, generator=generator),
        rois=torch.tensor([[0, 4, 5, 100, 80], [1, 0, 0, 20.5, 30], [1, 60, 2, 61, 90], [0, -20, -9, 250, 250]]),
        logits=torch.randn(200, 80, generator=generator) * 3,
        weight=torch.randn(8, 16, 3, 3, generator=generator) * 0.1,
        offset=torch.randn(2, 18, 24, 32, generator=generator) * 2,
        modulation=torch.rand(2, 9, 24, 32, generator=generator),
    )


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-4), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize('name', DIFFERENTIABLE)
def test_outputs_and_gradients(device, name, dtype, tolerance):
    if device == 'cpu' and dtype == torch.float32:
        pytest.skip('is what the others are compared with')
    operator, names, num_learned = DIFFERENTIABLE[name]
    if device == 'cuda' and dtype == torch.float16 and 'deformable' in name:
        # Its kernel computes positions in float16, too.
        tolerance = 2e-2
    results = []
    for place, precision in (('cpu', torch.float32), (device, dtype)):
        tensors = [inputs()[key].to(dtype).to(place, precision) for key in names]
        learned = [tensor.requires_grad_() for tensor in tensors[:num_learned]]
        output = operator(*tensors).float()
        weights = torch.linspace(-1, 1, output.numel(), device=place).view_as(output)
        results.append([output, *torch.autograd.grad((output * weights).sum(), learned)])
    for expected, actual in zip(*results):
        assert (actual.float().cpu() - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize('name', SELECTIONS)
def test_the_same_boxes_are_kept(device, name):
    generator = torch.Generator().manual_seed(0)
    corners, sides, scores = (torch.rand(shape, generator=generator) for shape in ((300, 2), (300, 2), (300,)))
    boxes = torch.cat([corners * 100, corners * 100 + sides * 40 + 1], dim=1)
    kept = SELECTIONS[name](boxes, scores, (scores * 10).long())
    # Two times, and from boxes in another order: the scores decide.
    order = torch.randperm(300, generator=generator)
    tensors = (tensor[order].to(device) for tensor in (boxes, scores, (scores * 10).long()))
    assert order[SELECTIONS[name](*tensors).cpu()].tolist() == kept.tolist() and 20 < len(kept) <= 300
