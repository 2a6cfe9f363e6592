import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import load_checkpoint
from support.tiny import build_tiny
from support.tiny_semi import SIZE, build_teacher, detections, samples, semi_rectangles_config, set_detections
from support.tiny_training import assert_resumes_bit_by_bit, build_runner, write_rectangles
from support.tool import run_tool

from mmdet_sag.errors import InputError

BOXES = [[4, 6, 30, 40], [28, 20, 60, 58], [8, 8, 50, 50]]
# No detection of a student reaches this threshold: its RoIs are the pseudo-labels.
ONLY_LABELS_AS_ROIS = {'train_cfg.proposal.score_thr': 1.0}


def images(count: int = 1, seed: int = 0) -> torch.Tensor:
    found = torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed), device='cpu')
    # Where tensors are made by default.
    return found.to(torch.empty(0).device)


def pseudo(model, count: int = 1) -> list:
    return model.get_pseudo_instances(images(count), samples([[]] * count))


def batch(labelled: list, num_unlabelled: int) -> tuple:
    inputs = dict(sup_weak=images(len(labelled)), sup_strong=images(len(labelled), 1))
    data = dict(sup_weak=samples(labelled), sup_strong=samples(labelled))
    if num_unlabelled:
        inputs.update(unsup_teacher=images(num_unlabelled, 2), unsup_student=images(num_unlabelled, 3))
        data.update(unsup_teacher=samples([[]] * num_unlabelled), unsup_student=samples([[]] * num_unlabelled))
    return inputs, data


def total(losses: dict, prefix: str, name: str = '') -> torch.Tensor:
    values = [value for key, value in losses.items() if key.startswith(f'{prefix}_loss_{name}')]
    return sum(sum(value) if isinstance(value, list) else value.sum() for value in values)


@pytest.mark.usefixtures('default_device')
def test_boxes_are_kept_above_a_score_of_0_6_and_masks_above_an_iou_of_0_9():
    model = build_teacher()
    set_detections(model, [detections(BOXES, [0.61, 0.6, 0.7])], ious=[0.91, 0.9])
    (sample,), info = pseudo(model)
    assert sample.gt_instances.bboxes.tolist() == [BOXES[0], BOXES[2]]
    assert sample.gt_instances.labels.tolist() == [1, 1]
    assert sample.gt_instances.mask_weights.tolist() == [1, 0]
    assert (info['num_boxes'].item(), info['num_masks'].item()) == (2, 1)


@pytest.mark.usefixtures('default_device')
def test_the_predicted_iou_is_not_multiplied_by_the_score():
    model = build_teacher()
    set_detections(model, [detections(BOXES[:1], [0.65])], ious=[0.95])
    (sample,), _ = pseudo(model)
    assert sample.gt_instances.mask_weights.tolist() == [1]


@pytest.mark.usefixtures('default_device')
def test_thresholds_are_options():
    model = build_teacher(cls_pseudo_thr=0.3, mask_pseudo_thr=0.5)
    set_detections(model, [detections(BOXES, [0.31, 0.3, 0.7])], ious=[0.6, 0.4])
    (sample,), _ = pseudo(model)
    assert sample.gt_instances.mask_weights.tolist() == [1, 0]


@pytest.mark.usefixtures('default_device')
def test_pseudo_masks_are_bitmaps_of_the_unclipped_box():
    model = build_teacher()
    box = [-10.0, 20.0, 30.0, 80.0]
    set_detections(model, [detections([box], [0.9])], ious=[0.95])
    (sample,), _ = pseudo(model)
    assert sample.gt_instances.bboxes.tolist() == [box]
    expected = np.zeros((SIZE, SIZE), np.uint8)
    expected[20:, :30] = 1
    assert (sample.gt_instances.masks.masks[0] == expected).all()


@pytest.mark.usefixtures('default_device')
@pytest.mark.parametrize(('logit', 'area'), [(0.0, 26 * 34), (-0.01, 0)])
def test_a_pseudo_mask_is_where_the_probability_is_at_least_a_half(logit, area):
    model = build_teacher()
    set_detections(model, [detections(BOXES[:1], [0.9])], ious=[0.95], logit=logit)
    (sample,), _ = pseudo(model)
    # The outermost pixels' centres lie between a sample of the mask and its border.
    assert sample.gt_instances.masks.areas[0] == pytest.approx(area, abs=2 * (26 + 34))


@pytest.mark.usefixtures('default_device')
def test_the_teacher_detects_with_the_settings_of_training():
    model = build_teacher(cls_pseudo_thr=0.0)
    seen = {}

    def predict_by_feat(*args, cfg, **kwargs):
        seen.update(cfg)
        return [detections([], [])]

    model.teacher.bbox_head.predict_by_feat = predict_by_feat
    pseudo(model)
    assert (seen['score_thr'], seen['nms_pre'], seen['max_per_img']) == (0.05, 1000, 100)


@pytest.mark.usefixtures('default_device')
@pytest.mark.parametrize('counts', [(1, 0), (0, 1), (0, 0)])
def test_images_without_pseudo_label_are_background(counts):
    model = build_teacher(detector=ONLY_LABELS_AS_ROIS)
    set_detections(model, [detections(BOXES[:n], [0.9] * n) for n in counts], ious=[0.5] * sum(counts))
    losses = model.loss(*batch([BOXES[:1]], 2))
    assert total(losses, 'unsup', 'cls') > 0
    # Its only mask is rejected, wherever the image without pseudo-label stands in the batch.
    assert total(losses, 'unsup', 'mask') - total(losses, 'unsup', 'mask_iou') == 0
    sum(total(losses, part) for part in ('sup', 'unsup')).backward()
    without = [name for name, p in model.student.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


@pytest.mark.usefixtures('default_device')
def test_images_without_pseudo_label_can_be_left_out():
    model = build_teacher(keep_images_without_pseudo_labels=False)
    set_detections(model, [detections([], []), detections([], [])], ious=[])
    losses = model.loss(*batch([BOXES[:1]], 2))
    assert total(losses, 'unsup') == 0
    total(losses, 'unsup').backward()


def mask_loss(weights) -> float:
    model = build_teacher(detector=ONLY_LABELS_AS_ROIS).student
    (sample,) = samples([BOXES])
    if weights is not None:
        sample.gt_instances.mask_weights = torch.tensor(weights)
    losses = model.loss(images(), [sample])
    return losses['loss_mask'].item(), losses['loss_mask_iou'].item()


@pytest.mark.usefixtures('default_device')
def test_rejected_masks_count_in_the_normaliser_and_in_the_iou_loss():
    plain, plain_iou = mask_loss(None)
    assert mask_loss([1.0, 1.0, 1.0]) == pytest.approx((plain, plain_iou))
    single = [mask_loss([float(i == j) for j in range(3)])[0] for i in range(3)]
    assert min(single) > 0
    assert sum(single) == pytest.approx(plain, rel=1e-5)
    assert mask_loss([0.0, 0.0, 0.0]) == pytest.approx((0.0, plain_iou))


@pytest.mark.usefixtures('default_device')
def test_losses_of_unlabelled_images_are_those_of_the_student_times_their_weights():
    model = build_teacher(detector=ONLY_LABELS_AS_ROIS)
    set_detections(model, [detections(BOXES[:2], [0.9, 0.9])], ious=[0.95, 0.95])
    inputs, data = batch([BOXES[:1]], 1)
    losses = model.loss(inputs, copy.deepcopy(data))
    student = model.student.loss(
        inputs['unsup_student'],
        model.project_pseudo_instances(
            model.get_pseudo_instances(inputs['unsup_teacher'], data['unsup_teacher'])[0], data['unsup_student']
        ),
    )
    weights = dict(loss_cls=2, loss_bbox=0, loss_centerness=0, loss_mask=2, loss_mask_iou=2)
    assert student.keys() == weights.keys()
    for name, weight in weights.items():
        assert student[name].sum() > 0
        torch.testing.assert_close(losses[f'unsup_{name}'].sum(), weight * student[name].sum())


def test_one_weight_can_be_set_without_the_others():
    model = build_teacher(unsup_weights=dict(loss_mask=3.0))
    assert model.semi_train_cfg.unsup_weights.loss_mask == 3
    assert model.semi_train_cfg.unsup_weights.loss_cls == 2


@pytest.mark.usefixtures('default_device')
def test_labelled_views_share_one_forward_and_its_normaliser():
    model = build_teacher(detector=ONLY_LABELS_AS_ROIS)
    inputs, data = batch([BOXES[:1], BOXES[1:]], 0)
    losses = model.loss(inputs, copy.deepcopy(data))
    joined = model.student.loss(
        torch.cat([inputs['sup_weak'], inputs['sup_strong']]), data['sup_weak'] + data['sup_strong']
    )
    for name, loss in joined.items():
        torch.testing.assert_close(losses[f'sup_{name}'], loss)


def test_without_unlabelled_images_training_is_the_supervised_one():
    model = build_teacher(sup_branches=['sup_weak'])
    supervised = build_tiny().train()
    supervised.load_state_dict(model.student.state_dict())
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.01, momentum=0.9) for part in (model.student, supervised)]
    for step in range(3):
        torch.manual_seed(step)
        pair = [BOXES[:2], BOXES[1:]]
        inputs = images(2, step)
        semi = model.loss(dict(sup_weak=inputs), dict(sup_weak=samples(pair)))
        torch.manual_seed(step)
        plain = supervised.loss(inputs, samples(pair))
        for losses, optimizer in zip((semi, plain), optimizers):
            optimizer.zero_grad()
            sum(sum(v) if isinstance(v, list) else v.sum() for v in losses.values()).backward()
            optimizer.step()
        for name, loss in plain.items():
            torch.testing.assert_close(semi[f'sup_{name}'], loss, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(model.student.parameters(), supervised.parameters()):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures('default_device')
@pytest.mark.parametrize('norm_eval', [True, False])
def test_batch_norms_of_the_student_can_keep_the_statistics_of_the_burn_in(norm_eval):
    model = build_teacher(detector={'neck.norm_cfg': dict(type='BN')}, norm_eval=norm_eval)
    set_detections(model, [detections(BOXES[:1], [0.9])] * 2, ious=[0.95] * 2)
    before = copy.deepcopy(model.student.state_dict())
    losses = model.loss(*batch([BOXES[:1]] * 2, 2))
    (total(losses, 'sup') + total(losses, 'unsup')).backward()
    after = model.student.state_dict()
    kept = [torch.equal(after[name], before[name]) for name in before if 'neck' in name and 'running' in name]
    assert kept and all(kept) == norm_eval
    assert model.student.neck.lateral_convs[0].bn.weight.grad is not None


@pytest.mark.parametrize('change', [dict(img_shape=(48, 64)), dict(flip=True, flip_direction='horizontal')])
def test_views_of_different_geometry_are_refused(change):
    model = build_teacher()
    (weak,), (strong,) = samples([[]]), samples([[]])
    strong.set_metainfo(change)
    with pytest.raises(InputError, match='before MultiBranch'):
        model.project_pseudo_instances([weak], [strong])


def test_a_supervised_checkpoint_goes_to_both_networks(tmp_path):
    supervised = build_tiny(seed=3)
    torch.save(supervised.state_dict(), tmp_path / 'burn_in.pth')
    model = build_teacher(seed=4)
    load_checkpoint(model, str(tmp_path / 'burn_in.pth'), strict=True)
    for network in (model.student, model.teacher):
        for mine, theirs in zip(network.state_dict().values(), supervised.state_dict().values()):
            assert torch.equal(mine, theirs)


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(InputError, match="no option 'cls_thr'"):
        build_teacher(cls_thr=0.5)
    with pytest.raises(InputError, match='mask_iou_head'):
        build_teacher(detector={'roi_head.mask_iou_head': None})
    with pytest.raises(InputError, match='inclusive_boxes'):
        build_teacher(detector={'train_cfg.inclusive_boxes': True})


class Networks(Hook):
    """Keeps what the student was after each step, and at last the teacher."""

    def before_train(self, runner) -> None:
        self.students = [copy.deepcopy(runner.model.student.state_dict())]

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        self.students.append(copy.deepcopy(runner.model.student.state_dict()))


def test_the_teacher_begins_as_the_student_and_keeps_0_9996_of_itself(tmp_path):
    write_rectangles(tmp_path / 'data')
    config = semi_rectangles_config(tmp_path / 'data', validated=True)
    runner = build_runner(config, tmp_path / 'run', **{'train_cfg.max_iters': 3})
    hook = Networks()
    runner.register_hook(hook)
    runner.train()
    expected = dict(hook.students[0])
    for student in hook.students[1:]:
        for name, value in student.items():
            if value.is_floating_point():
                expected[name] = 0.9996 * expected[name] + 0.0004 * value
    assert any((hook.students[0][name] != hook.students[-1][name]).any() for name in expected)
    for name, value in runner.model.teacher.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name], msg=name)


def test_a_resumed_training_is_the_same_bit_by_bit(tmp_path):
    write_rectangles(tmp_path / 'data')
    config = semi_rectangles_config(tmp_path / 'data')
    assert_resumes_bit_by_bit(config, tmp_path)


def test_two_processes_of_which_one_has_no_pseudo_label_make_a_step(tmp_path):
    script = Path(__file__).parents[2] / 'support/distributed_polite_teacher.py'
    job = run_tool(script, tmp_path / 'losses.pth', processes=2)
    assert job.returncode == 0, job.stderr
    result = torch.load(tmp_path / 'losses.pth')
    assert result['same_gradients']
    # The normaliser is the mean over both processes, so that their mean loss is that of one with the joined batch.
    torch.testing.assert_close(result['mean_loss_cls'], result['joined_loss_cls'], rtol=1e-5, atol=1e-6)


GFL = dict(
    bbox_head=dict(
        _delete_=True,
        type='GFLHead',
        num_classes=3,
        in_channels=32,
        feat_channels=32,
        stacked_convs=1,
        norm_cfg=dict(type='GN', num_groups=8),
        anchor_generator=dict(
            type='AnchorGenerator', ratios=[1.0], octave_base_scale=8, scales_per_octave=1, strides=[8, 16, 32, 64, 128]
        ),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(bbox_head=dict(assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1)),
)


@pytest.mark.usefixtures('default_device')
def test_the_losses_of_another_box_head_need_weights():
    inputs, data = batch([BOXES[:1]], 1)
    for sample in sum(data.values(), []):
        # As the data preprocessor sets it.
        sample.set_metainfo(dict(pad_shape=sample.img_shape))
    for weights, message in (({}, "one for 'loss_dfl'"), (dict(loss_dfl=0.0, loss_x=1.0), "loss_x: the detector's")):
        model = build_teacher(detector=GFL, unsup_weights=weights)
        set_detections(model, [detections(BOXES[:2], [0.9, 0.9])], ious=[0.95, 0.95])
        with pytest.raises(InputError, match=message):
            model.loss(inputs, copy.deepcopy(data))
    model = build_teacher(detector=GFL, unsup_weights=dict(loss_dfl=0.0))
    set_detections(model, [detections(BOXES[:2], [0.9, 0.9])], ious=[0.95, 0.95])
    losses = model.loss(inputs, copy.deepcopy(data))
    assert sum(losses['unsup_loss_dfl']) == 0
    assert losses['unsup_loss_mask'] > 0
    model.parse_losses(losses)[0].backward()
