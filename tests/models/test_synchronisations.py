"""How often a step waits for a GPU, or copies between it and the host; without one, tensors pretend to be on it."""

import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from support.pretended_cuda import PretendedCUDA
from support.reference import make_batch
from support.tiny import build_tiny, ground_truth, images, sensitive
from support.tiny_semi import SIZE, build_teacher, samples

CONFIGS = Path(__file__).parents[2] / 'configs'
R50 = CONFIGS / 'centermask/centermask_r50-caffe_fpn_ms-3x_coco.py'


def build(training: bool) -> tuple[torch.nn.Module, dict]:
    """CenterMask R-50 with narrow heads, and two images with six objects each."""
    boxes = [(4 * i + 1, 3, 4 * i + 40 - i, 60 + i) for i in range(6)]
    batch = make_batch(images((96, 128), (64, 96)), [ground_truth(*boxes)] * 2)
    return sensitive(build_tiny(path=R50)).train(training), batch


def step(model: torch.nn.Module, batch: dict, training: bool) -> None:
    """A training step without its backward pass, or a prediction."""
    with torch.set_grad_enabled(training):
        result = model(**model.data_preprocessor(batch, training), mode='loss' if training else 'predict')
    if training:
        assert all(loss.device.type == 'cuda' for loss in result.values())
    else:
        assert all(len(sample.pred_instances) > 10 for sample in result)


@pytest.mark.parametrize('training, most', [(True, 30), (False, 25)])
def test_a_step_waits_and_copies_seldom(device, training, most):
    model, batch = build(training)
    if device == 'cpu':
        with PretendedCUDA() as cuda:
            step(cuda.move(model), batch, training)
        assert not cuda.mixed
        events = cuda.events
    else:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter('always')
            torch.cuda.set_sync_debug_mode('warn')
            step(model.to(device), batch, training)
            torch.cuda.set_sync_debug_mode('default')
        events = Counter(f'{said.filename}:{said.lineno}' for said in found if 'synchroniz' in str(said.message))
    assert 0 < events.total() <= most, '\n'.join(f'{n:3} {place}' for place, n in events.most_common())


def test_pseudo_masks_stay_on_their_device():
    model = build_teacher(cls_pseudo_thr=0.0, mask_pseudo_thr=None)
    sensitive(model.teacher)
    with PretendedCUDA() as cuda:
        inputs = torch.zeros(2, 3, SIZE, SIZE).to(cuda.device)
        weak, _ = cuda.move(model).get_pseudo_instances(inputs, samples([[], []]))
        losses = model.loss_by_pseudo_instances(inputs, model.project_pseudo_instances(weak, samples([[], []])))
        assert losses['unsup_loss_mask'].item() > 0
        masks = [sample.gt_instances.masks for sample in weak]
        assert all(part.bitmaps.device.type == 'cuda' and len(part) > 10 for part in masks)
    assert cuda.bytes['to host'] < sum(map(len, masks)) * SIZE * SIZE / 2 and not cuda.mixed
