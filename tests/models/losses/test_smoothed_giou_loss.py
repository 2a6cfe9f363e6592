import pytest
import torch
from mmdet.models.losses import GIoULoss
from mmdet.registry import MODELS

pytestmark = pytest.mark.usefixtures('default_device')


def random_boxes(n):
    corners = torch.rand(n, 2, 2) * 10
    return torch.cat([corners.min(1).values, corners.max(1).values + 0.5], dim=1)


def test_without_smoothing_it_is_the_giou_loss():
    torch.manual_seed(0)
    pred, target, weight = random_boxes(20), random_boxes(20), torch.rand(20)
    loss = MODELS.build(dict(type='SmoothedGIoULoss', smoothing=0.0))
    torch.testing.assert_close(
        loss(pred, target, weight, avg_factor=3.0), GIoULoss()(pred, target, weight, avg_factor=3.0)
    )


def test_smoothing_is_added_to_intersection_and_union_but_not_to_the_hull():
    loss = MODELS.build(dict(type='SmoothedGIoULoss', reduction='none'))
    pred, target = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 1.0, 3.0, 3.0]])
    assert loss(pred, target).item() == pytest.approx(1 - (1 + 1) / (7 + 1) + (9 - 7) / 9)


def test_an_empty_box_gives_a_finite_loss_and_gradient():
    pred = torch.zeros(1, 4, requires_grad=True)
    loss = MODELS.build(dict(type='SmoothedGIoULoss'))(pred, torch.zeros(1, 4))
    loss.backward()
    assert loss.isfinite() and pred.grad.isfinite().all()


@pytest.mark.parametrize('n', [3, 4])
def test_a_box_has_the_mean_weight_of_its_coordinates(n):
    torch.manual_seed(0)
    pred, target, weight = random_boxes(n), random_boxes(n), torch.rand(n, 4)
    loss = MODELS.build(dict(type='SmoothedGIoULoss', smoothing=0.0))
    for options in (dict(avg_factor=3.0), dict(), dict(reduction_override='none')):
        torch.testing.assert_close(loss(pred, target, weight, **options), GIoULoss()(pred, target, weight, **options))
