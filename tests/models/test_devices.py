"""A GPU computes what a CPU computes, in each precision and form of the model."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.structures import PixelData
from support import tiny_panoptic
from support.reference import CONFIGS, make_batch
from support.tiny import build_tiny, ground_truth, images

from mmdet_sag.cpu import prepare_for_inference, prepare_for_training
from mmdet_sag.models.detectors import CenterMask
from mmdet_sag.structures.mask import RLEMasks

pytestmark = pytest.mark.usefixtures('without_tf32')


def build_mask_rcnn() -> torch.nn.Module:
    config = Config.fromfile(CONFIGS / 'sag_mask/mask-rcnn_r50_fpn_sag_1x_coco.py').model
    config.backbone.init_cfg = None
    # Of 81 random classes none is sure.
    config.test_cfg.rcnn.score_thr = 0.005
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    return model


BUILD = {
    'Lite V-19-slim-dw': build_tiny,
    'R-50': partial(build_tiny, path=CONFIGS / 'centermask/centermask_r50-caffe_fpn_ms-3x_coco.py'),
    'V-39': partial(build_tiny, path=CONFIGS / 'centermask/centermask_v39_fpn_ms-3x_coco.py'),
    'V-39-DCN': partial(build_tiny, path=CONFIGS / 'centermask/centermask_v39-dcn_fpn_ms-3x_coco.py'),
    'first implementation': partial(
        build_tiny, path=CONFIGS / 'centermask_first/centermask-first-lite_v19_fpn_ms-4x_coco.py'
    ),
    'panoptic': tiny_panoptic.build_tiny,
    'Mask R-CNN with SAG-Mask': build_mask_rcnn,
}
# On CUDA.
NOT_DETERMINISTIC = ('V-39-DCN', 'panoptic', 'Mask R-CNN with SAG-Mask')
# How far losses may be from those of the CPU in float32.
TOLERANCES = {'float32': 1e-3, 'TF32': 0.02, 'float16': 0.05, 'bfloat16': 0.1, 'channels last': 1e-3, 'prepared': 1e-3}


@pytest.fixture
def gpu(device) -> str:
    if device == 'cpu':
        pytest.skip('compares a GPU with the CPU')
    return device


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # A CPU alone is compared with itself: one model, in what tests/cpu has not.
    gpu = torch.cuda.is_available()
    if 'form' in metafunc.fixturenames:
        metafunc.parametrize('form', TOLERANCES if gpu else ['bfloat16', 'channels last'])
    metafunc.parametrize('model', BUILD if gpu else list(BUILD)[:1], indirect=True)


@pytest.fixture
def model(request) -> torch.nn.Module:
    """A model that finds objects, on the CPU."""
    model = BUILD[request.param]()
    # Frozen norms that do not know what random weights compute let it grow beyond float16.
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model.extract_feat(torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1)) * 50)
    for norm in norms:
        norm.momentum = 0.1
    if isinstance(model, CenterMask):
        torch.nn.init.normal_(model.bbox_head.conv_cls.weight, std=0.05)
        torch.nn.init.constant_(model.bbox_head.conv_cls.bias, -1.5)
        # Boxes of some strides, whose masks have more than a few pixels.
        torch.nn.init.constant_(model.bbox_head.conv_reg.bias, 2.0)
    return model


def batch(with_objects: bool = True) -> dict:
    boxes = [[(8, 8, 40, 60), (30, 20, 90, 62), (50, 10, 120, 80)], [(2, 2, 60, 60)]]
    objects = [ground_truth(*(part if with_objects else [])) for part in boxes]
    batch = make_batch(images((96, 128), (64, 96)), objects)
    for sample in batch['data_samples']:
        labels = torch.arange(np.prod(sample.img_shape), dtype=torch.uint8) % tiny_panoptic.NUM_STUFF
        sample.gt_sem_seg = PixelData(sem_seg=(labels + tiny_panoptic.NUM_THINGS).reshape(1, *sample.img_shape))
    return batch


def step(model: torch.nn.Module, form: str = 'float32', with_objects: bool = True) -> tuple[dict, dict]:
    """Losses and gradients of a training step."""
    data = model.train().data_preprocessor(batch(with_objects), True)
    if not isinstance(model, CenterMask):
        for sample in data['data_samples']:
            sample.gt_instances.masks = sample.gt_instances.masks.to_bitmap()
    if form == 'channels last':
        model.to(memory_format=torch.channels_last)
        data['inputs'] = data['inputs'].contiguous(memory_format=torch.channels_last)
    elif form == 'prepared':
        prepare_for_training(model)
    dtype = getattr(torch, form) if form in ('float16', 'bfloat16') else None
    torch.manual_seed(0)
    np.random.seed(0)
    model.zero_grad()
    with (
        torch.autocast(data['inputs'].device.type, dtype, enabled=dtype is not None),
        torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=form == 'TF32'),
    ):
        losses, log = model.parse_losses(model(**data, mode='loss'))
    # What a gradient scaler does.
    scale = 1024 if form == 'float16' else 1
    (losses * scale).backward()
    gradients = {name: p.grad.cpu() / scale for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.item() for name, value in log.items()}, gradients


def test_losses_and_gradients(form, model, device):
    losses, gradients = step(model)
    found, found_gradients = step(copy.deepcopy(model).to(device), form)
    tolerance = TOLERANCES[form]
    # Its targets are IoUs of masks cut at 0.5, where rounding moves many pixels of random masks.
    found_iou, expected_iou = (values.pop('loss_mask_iou', 0.0) for values in (found, losses))
    assert found_iou == pytest.approx(expected_iou, rel=5 * tolerance, abs=tolerance)
    assert found == pytest.approx(losses, rel=tolerance, abs=tolerance / 5)
    assert set(found_gradients) == set(gradients)
    difference, size = (
        torch.cat([values(name).flatten() for name in gradients]).norm()
        for values in (lambda name: found_gradients[name] - gradients[name], gradients.get)
    )
    assert difference <= 5 * tolerance * size


@pytest.mark.parametrize('prepared', [False, True])
@torch.no_grad()
def test_features_detections_and_masks(gpu, model, prepared):
    inputs = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    results = []
    for place in ('cpu', gpu):
        there = copy.deepcopy(model).to(place).eval()
        if place == gpu and prepared:
            prepare_for_inference(there)
        results.append((there.extract_feat(inputs.to(place)), there.test_step(batch())))
    for expected, actual in zip(results[0][0], results[1][0]):
        assert (actual.cpu() - expected).norm() <= 1e-3 * expected.norm()
    for samples in zip(results[0][1], results[1][1]):
        expected, actual = (sample.pred_instances.to('cpu') for sample in samples)
        assert len(actual) == len(expected) > 10
        for key in {'bboxes', 'scores', 'mask_scores'} & set(expected.keys()):
            torch.testing.assert_close(actual[key], expected[key], rtol=1e-3, atol=1e-2)
        expected, actual = (
            instances.masks.to_tensor() if isinstance(instances.masks, RLEMasks) else instances.masks
            for instances in (expected, actual)
        )
        assert (expected != actual).sum() < 0.01 * expected.sum()
        if 'pred_panoptic_seg' in samples[0]:
            expected, actual = (sample.pred_panoptic_seg.sem_seg.cpu() for sample in samples)
            assert (expected != actual).float().mean() < 1e-2


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_finds_as_many(gpu, model, dtype):
    model = model.to(gpu).eval()
    found = [len(sample.pred_instances) for sample in model.test_step(batch())]
    with torch.autocast(gpu, dtype):
        assert [len(sample.pred_instances) for sample in model.test_step(batch())] == pytest.approx(found, rel=0.2)


def test_a_batch_without_objects(model, device):
    losses, gradients = step(model.to(device), with_objects=False)
    assert all(np.isfinite(value) for value in losses.values())
    assert set(gradients) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_deterministic_gradients_are_equal_in_every_bit(model, device, monkeypatch, request):
    if device == 'cuda' and request.node.callspec.params['model'] in NOT_DETERMINISTIC:
        pytest.skip('its gradient is not deterministic on CUDA, see docs/training.md')
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    torch.use_deterministic_algorithms(True)
    try:
        one, two = (step(copy.deepcopy(model).to(device)) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert one[0] == two[0]
    assert all(torch.equal(gradient, two[1][name]) for name, gradient in one[1].items())
