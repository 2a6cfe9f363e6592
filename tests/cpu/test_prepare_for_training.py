"""A detector that trains fast on a CPU learns what it would learn otherwise."""

import copy

import numpy as np
import pytest
import torch
from mmdet.registry import HOOKS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from support.reference import CASES, CONFIGS, LOSSES, load_case, make_batch, read_image
from support.tiny import build_tiny
from support.tiny_semi import build_teacher
from support.tiny_training import build_runner, rectangles_config, write_rectangles

from mmdet_sag.cpu import give_back, prepare_for_training, winograd_conv
from mmdet_sag.cpu.replacements import FrozenBatchNorm
from mmdet_sag.cpu.winograd_conv import WinogradConv


def winograd_convs(model: torch.nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(vars(module).get('forward'), WinogradConv)]


@pytest.mark.parametrize('name', CASES)
def test_losses_are_those_of_the_reference(name):
    case = load_case(name)
    model = case.model.train()
    prepare_for_training(model)
    assert winograd_convs(model)
    ground_truth = (case.arrays['gt_boxes'], case.arrays['gt_labels'], case.facts['gt_polygons'])
    batch = model.data_preprocessor(make_batch([read_image()], [ground_truth]), training=True)
    losses = model(**batch, mode='loss')
    for loss_name, loss in losses.items():
        assert loss.item() == pytest.approx(case.facts['losses'][LOSSES[loss_name]], rel=1e-3), loss_name


def test_training_with_everything_it_may_meet_gives_the_same_weights(tmp_path, monkeypatch):
    # Its images are small.
    monkeypatch.setattr(winograd_conv.transforms(), 'MIN_TRAINED_TILES', 0)
    write_rectangles(tmp_path / 'data')
    config = rectangles_config(tmp_path / 'data')
    # Wide enough for WinogradConv. EMA is on already.
    config.merge_from_dict(
        {
            'model.neck.out_channels': 112,
            'model.bbox_head.in_channels': 112,
            'model.bbox_head.feat_channels': 112,
            'model.roi_head.mask_roi_extractor.out_channels': 112,
            'model.roi_head.mask_head.in_channels': 112,
            'model.roi_head.mask_iou_head.in_channels': 112,
            'optim_wrapper.accumulative_counts': 2,
            'train_cfg.max_iters': 4,
            'train_cfg.val_interval': 2,
        }
    )
    plain_config = copy.deepcopy(config)
    assert plain_config.default_hooks.pop('fast_training').type == 'FastTrainingHook'
    runners = []
    for name, chosen in (('plain', plain_config), ('fast', config)):
        # Its seed holds until the next one is built.
        runners.append(build_runner(chosen, tmp_path / name))
        runners[-1].train()
    plain, fast = runners
    assert not winograd_convs(plain.model)
    assert len([name for name in winograd_convs(fast.model) if name.startswith('bbox_head')]) == 4
    torch.testing.assert_close(dict(fast.model.state_dict()), dict(plain.model.state_dict()), rtol=1e-3, atol=1e-4)


def test_student_and_teacher_are_prepared():
    runner = Runner.__new__(Runner)
    runner.model = build_teacher(detector={'bbox_head.feat_channels': 112})
    HOOKS.build(dict(type='FastTrainingHook')).before_train(runner)
    students = winograd_convs(runner.model.student)
    assert students
    assert winograd_convs(runner.model.teacher) == students


def test_heads_of_other_detectors_get_the_contiguous_features_that_they_may_want():
    init_default_scope('mmdet')
    config = Config.fromfile(CONFIGS / 'sag_mask/mask-rcnn_r50_fpn_sag_1x_coco.py')
    config.model.backbone.update(depth=18, init_cfg=None)
    config.model.neck.update(in_channels=[64, 128, 256, 512])
    torch.manual_seed(0)
    model = MODELS.build(config.model).train()
    image = torch.rand(1, 3, 64, 96)
    expected = model.extract_feat(image)
    prepare_for_training(model)
    assert {name.split('.')[0] for name in winograd_convs(model)} == {'backbone', 'neck'}
    for actual, level in zip(model.extract_feat(image), expected):
        assert actual.is_contiguous()
        torch.testing.assert_close(actual, level, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_frozen_batch_norm_is_a_multiply_add(dtype):
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(5)
    norm.load_state_dict({name: torch.rand_like(value.float()) + 0.1 for name, value in norm.state_dict().items()})
    norm = norm.eval().requires_grad_(False)
    x = torch.randn(2, 5, 4, 3).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    results = []
    for forward in (norm, FrozenBatchNorm(norm)):
        out = forward(x)
        results.append((out, *torch.autograd.grad(out, x, torch.linspace(-1, 1, out.numel()).view_as(out).to(dtype))))
    assert torch.equal(results[0][0], results[1][0]) and results[1][1].dtype == dtype
    torch.testing.assert_close(results[1][1], results[0][1])

    learning = FrozenBatchNorm(torch.nn.BatchNorm2d(5))
    learning(x.float()).sum().backward()
    assert learning.module.num_batches_tracked == 1 and learning.module.weight.grad is not None


def test_what_a_backbone_with_frozen_norms_keeps_for_its_gradient_is_half_of_it_on_a_gpu():
    init_default_scope('mmdet')
    config = Config.fromfile(CONFIGS / 'centermask/centermask_r50-caffe_fpn_ms-3x_coco.py').model
    config.backbone.init_cfg = None
    # Tensors without content take the way of any device but the CPU.
    model = MODELS.build(config).to('meta').train()
    kept = []
    for prepare in (lambda model: None, prepare_for_training):
        prepare(model)
        sizes = {}

        def keep(tensor, sizes=sizes):
            storage = tensor.untyped_storage()
            # With the storage, whose number is then not given again.
            sizes[storage._cdata] = storage.nbytes(), storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.backbone(torch.empty(2, 3, 320, 320, device='meta'))
        weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        kept.append(sum(size for number, (size, _) in sizes.items() if number not in weights))
    assert kept[1] < 0.53 * kept[0]


def test_backbone_neck_and_box_head_are_compiled_without_a_graph_break(monkeypatch):
    compile = torch.nn.Module.compile
    # Inductor takes a minute; this one records the same graphs, or says why it cannot.
    quick = dict(backend='aot_eager', fullgraph=True)
    monkeypatch.setattr(torch.nn.Module, 'compile', lambda self, **options: compile(self, **options, **quick))
    model, compiled = build_tiny().train(), build_tiny().train()
    prepare_for_training(compiled, compile=True)
    box = np.array([[8.0, 8.0, 40.0, 40.0]]), [1], [[[8.0, 8.0, 40.0, 8.0, 40.0, 40.0]]]
    losses = []
    for detector in (model, compiled):
        image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        losses.append(detector(**detector.data_preprocessor(make_batch([image], [box]), True), mode='loss'))
        sum(losses[-1].values()).backward()
    torch.testing.assert_close(losses[1], losses[0])
    for (name, one), other in zip(model.named_parameters(), compiled.parameters()):
        torch.testing.assert_close(other.grad, one.grad, msg=name)
    give_back(compiled)
    assert all(part._compiled_call_impl is None for part in compiled.children())
