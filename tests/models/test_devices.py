"""A GPU computes what a CPU computes; float32 there without TF32."""

import copy

import pytest
import torch
from support.reference import make_batch
from support.tiny import build_tiny, ground_truth, images, sensitive


@pytest.fixture(autouse=True)
def plain_float32(device, monkeypatch):
    if device == 'cpu':
        pytest.skip('compares a GPU with the CPU')
    monkeypatch.setattr(torch.backends.cuda.matmul, 'allow_tf32', False)
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)


def on_both(device, **options):
    model = sensitive(build_tiny(**options))
    return model, copy.deepcopy(model).to(device)


def batch():
    return make_batch(
        images((96, 128), (64, 96)), [ground_truth((8, 8, 40, 60), (30, 20, 90, 62)), ground_truth((2, 2, 60, 60))]
    )


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-3), (torch.bfloat16, 0.1)])
def test_losses_and_gradients(device, dtype, tolerance):
    results = []
    for model, precision in zip(on_both(device), (torch.float32, dtype)):
        kind = next(model.parameters()).device.type
        with torch.autocast(kind, precision, enabled=precision != torch.float32):
            losses = model.train()(**model.data_preprocessor(batch(), True), mode='loss')
        sum(losses.values()).backward()
        gradients = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
        results.append(({name: loss.item() for name, loss in losses.items()}, gradients))
    assert results[1][0] == pytest.approx(results[0][0], rel=tolerance, abs=tolerance / 5)
    assert (results[1][1] - results[0][1]).norm() <= 5 * tolerance * results[0][1].norm()


@torch.no_grad()
def test_detections_and_masks(device):
    found = []
    for model in on_both(device):
        found.append([sample.pred_instances.to('cpu') for sample in model.eval().test_step(batch())])
    for expected, actual in zip(*found):
        assert len(actual) == len(expected) > 10
        for key in ('bboxes', 'scores', 'mask_scores'):
            torch.testing.assert_close(actual[key], expected[key], rtol=1e-3, atol=1e-3)
        different = expected.masks.to_ndarray() ^ actual.masks.to_ndarray()
        assert different.mean() < 1e-3
