import pytest
import torch
from mmcv.ops import batched_nms
from mmdet.models.dense_heads import FCOSHead
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from support.tiny import build_tiny

from mmdet_sag.models.dense_heads.centermask_fcos_head import class_by_class_nms

STRIDES = [8, 16, 32, 64, 128]
TEST_CFG = dict(score_thr=0.05, nms_pre=1000, nms=dict(type='nms', iou_threshold=0.6, split_thr=0), max_per_img=50)
IMG_META = dict(img_shape=(64, 64), scale_factor=(1.0, 1.0))


def build(**options):
    torch.manual_seed(0)
    head = MODELS.build(
        dict(
            type='CenterMaskFCOSHead',
            num_classes=2,
            in_channels=32,
            feat_channels=32,
            stacked_convs=1,
            strides=STRIDES,
            norm_cfg=dict(type='GN', num_groups=8),
            **options,
        )
    )
    head.init_weights()
    return head


@pytest.fixture
def head(default_device):
    return build()


def outputs(points):
    """Outputs of the head on a 64 px image: {(level, y, x): (class logits, distances, centerness logit)}."""
    sides = [8, 4, 2, 1, 1]
    cls_scores = [torch.full((1, 2, side, side), -10.0) for side in sides]
    bbox_preds = [torch.zeros(1, 4, side, side) for side in sides]
    centernesses = [torch.zeros(1, 1, side, side) for side in sides]
    for (level, y, x), (logits, distances, centerness) in points.items():
        cls_scores[level][0, :, y, x] = torch.tensor(logits)
        bbox_preds[level][0, :, y, x] = torch.tensor(distances)
        centernesses[level][0, 0, y, x] = centerness
    return cls_scores, bbox_preds, centernesses


def predict(head, points, **test_cfg):
    cfg = ConfigDict({**TEST_CFG, **test_cfg})
    return head.predict_by_feat(*outputs(points), batch_img_metas=[IMG_META], cfg=cfg)[0]


def sigmoid(value):
    return torch.tensor(value).sigmoid().item()


def test_distances_are_relu_ed_strides_in_training_and_testing_alike(head):
    feats = [torch.randn(1, 32, side, side) for side in (8, 4, 2, 1, 1)]
    trained = head.train()(feats)[1]
    tested = head.eval()(feats)[1]
    for level, (a, b) in enumerate(zip(trained, tested)):
        torch.testing.assert_close(a, b)
        raw = head.scales[level].scale * head.conv_reg(head.reg_convs[0](feats[level]))
        torch.testing.assert_close(a, raw.relu())


@pytest.mark.parametrize('training', [True, False])
def test_boxes_are_decoded_from_strides_around_the_middle_of_a_cell(head, training):
    head.train(training)
    results = predict(head, {(1, 2, 1): ([5.0, -10.0], [1.0, 0.5, 0.25, 1.0], 3.0)})
    torch.testing.assert_close(results.bboxes, torch.tensor([[24.0 - 16, 40.0 - 8, 24.0 + 4, 40.0 + 16]]))


def test_the_score_is_the_root_of_class_score_times_centerness(head):
    point = {(0, 1, 1): ([1.0, -10.0], [1.0] * 4, -0.5)}
    joint = sigmoid(1.0) * sigmoid(-0.5)
    assert predict(head, point).scores.item() == pytest.approx(joint**0.5)
    assert predict(head, point, sqrt_score=False).scores.item() == pytest.approx(joint)


def test_the_threshold_is_one_of_the_class_score_before_centerness(head):
    low_centerness = {(0, 1, 1): ([-2.0, -10.0], [1.0] * 4, -9.0)}
    assert sigmoid(-2.0) > 0.05 > sigmoid(-2.0) * sigmoid(-9.0)
    assert len(predict(head, low_centerness)) == 1
    assert len(predict(head, {(0, 1, 1): ([-3.0, -10.0], [1.0] * 4, 9.0)})) == 0


def test_a_levels_best_are_chosen_with_centerness(head):
    points = {
        (0, 0, 0): ([2.0, -10.0], [1.0] * 4, -3.0),
        (0, 6, 6): ([1.0, -10.0], [1.0] * 4, 3.0),
    }
    assert predict(head, points, nms_pre=1).bboxes[0, 0] > 40
    assert predict(head, points, nms_pre=1, rank_by_centerness=False).bboxes[0, 0] < 10


def test_boxes_are_clipped_only_on_demand(head):
    point = {(0, 0, 0): ([3.0, -10.0], [4.0] * 4, 3.0)}
    assert predict(head, point).bboxes.tolist() == [[-28.0, -28.0, 36.0, 36.0]]
    assert predict(head, point, clip_boxes=True).bboxes.tolist() == [[0.0, 0.0, 36.0, 36.0]]


def test_detections_that_tie_with_the_last_are_kept(head):
    points = {(0, 2 * i, 2 * j): ([2.0, -10.0], [0.5] * 4, 1.0) for i in range(3) for j in range(2)}
    points[(0, 7, 7)] = ([4.0, -10.0], [0.5] * 4, 1.0)
    assert len(predict(head, points, max_per_img=2)) == 7
    assert len(predict(head, points, max_per_img=2, keep_ties=False)) == 2
    assert len(predict(head, points, max_per_img=1)) == 1


def test_nms_keeps_overlapping_boxes_of_different_classes_and_boxes_outside_the_image(head):
    points = {
        (2, 0, 0): ([3.0, -10.0], [3.0] * 4, 2.0),
        (2, 0, 1): ([-10.0, 2.0], [4.0, 3.0, 2.0, 3.0], 2.0),
        (2, 1, 0): ([2.5, -10.0], [3.0, 4.0, 3.0, 2.0], 2.0),
    }
    results = predict(head, points)
    assert results.labels.tolist() == [0, 1]


def test_an_image_without_objects_gives_finite_losses_that_reach_every_parameter(head):
    feats = tuple(torch.randn(1, 32, side, side) for side in (8, 4, 2, 1, 1))
    gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    losses = head.loss_by_feat(*head.train()(feats), [gt_instances], [IMG_META])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_a_softmax_has_a_background_and_class_probabilities_that_share_one():
    head = build(loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False))
    feats = tuple(torch.randn(1, 32, side, side) for side in (8, 4, 2, 1, 1))
    gt_instances = InstanceData(bboxes=torch.tensor([[4.0, 4.0, 40.0, 40.0]]), labels=torch.tensor([1]))
    cls_scores, bbox_preds, centernesses = head(feats)
    losses = head.loss_by_feat(cls_scores, bbox_preds, centernesses, [gt_instances], [IMG_META])
    assert all(loss.isfinite() for loss in losses.values())

    cls_scores = [torch.zeros(1, 3, *level.shape[2:]) for level in cls_scores]
    for level in cls_scores:
        level[:, 2] = 10.0
    cls_scores[0][0, :, 1, 1] = torch.tensor([2.0, 0.0, 1.0])
    bbox_preds, centernesses = [torch.ones_like(level) for level in bbox_preds], [level * 0 for level in centernesses]
    results = head.predict_by_feat(
        cls_scores, bbox_preds, centernesses, batch_img_metas=[IMG_META], cfg=ConfigDict(TEST_CFG)
    )[0]
    expected = torch.tensor([2.0, 0.0, 1.0]).softmax(0)[:2] * 0.5
    torch.testing.assert_close(results.scores, expected.sqrt())
    assert results.labels.tolist() == [0, 1]


@torch.no_grad()
def test_bfloat16_logits_do_not_move_the_boxes(head):
    cls_scores, bbox_preds, centernesses = outputs({})
    cls_scores[0] = torch.full((1, 2, 1, 200), -10.0)
    cls_scores[0][0, 0, 0, 129] = 3.0
    bbox_preds[0] = torch.ones(1, 4, 1, 200)
    centernesses[0] = torch.zeros(1, 1, 1, 200)
    half = [[level.bfloat16() for level in levels] for levels in (cls_scores, centernesses)]
    results = head.predict_by_feat(half[0], bbox_preds, half[1], batch_img_metas=[IMG_META], cfg=ConfigDict(TEST_CFG))[
        0
    ]
    assert results.bboxes[0, 0].item() == 129 * 8 + 4 - 8


@torch.no_grad()
@pytest.mark.parametrize('center_sampling', [True, False])
@pytest.mark.parametrize('num_objects', [0, 1, 30])
def test_targets_are_those_of_fcos_in_every_bit(center_sampling, num_objects):
    head = build(center_sampling=center_sampling)
    corners = torch.rand(num_objects, 2, 2).sort(1).values * 400 - 40
    # Of equal areas, too.
    bboxes = torch.cat([corners.flatten(1), corners.flatten(1) + 24])
    gt_instances = InstanceData(bboxes=bboxes, labels=torch.arange(len(bboxes)) % 2)
    points = head.prior_generator.grid_priors([(300 // s, 320 // s) for s in STRIDES], device='cpu')
    numbers = [len(level) for level in points]
    ranges = torch.tensor(head.regress_ranges).float().repeat_interleave(torch.tensor(numbers), dim=0)
    found = head._get_targets_single(gt_instances, torch.cat(points), ranges, numbers)
    expected = FCOSHead._get_targets_single(head, gt_instances, torch.cat(points), ranges, numbers)
    assert all(torch.equal(*pair) for pair in zip(found, expected))
    assert (found[0] < 2).any() == (num_objects > 0)


def test_nms_in_one_pass_gives_the_same_detections():
    pytest.importorskip('torchvision')
    head = build_tiny().bbox_head.eval()
    torch.nn.init.constant_(head.conv_cls.bias, 0.0)
    feats = [torch.randn(1, 32, 2**i, 2**i) for i in (5, 4, 3, 2, 1)]
    results = []
    for one_pass in (False, True):
        for keep_ties in (True, False):
            cfg = ConfigDict(head.test_cfg, one_pass_nms=one_pass, keep_ties=keep_ties, nms=dict(head.test_cfg.nms))
            meta = dict(img_shape=(256, 256), scale_factor=(0.5, 2.0))
            results.append(head.predict_by_feat(*head(feats), batch_img_metas=[meta], cfg=cfg, rescale=True)[0])
    for plain, in_one_pass in zip(results[:2], results[2:]):
        assert len(plain) == 50
        for key in ('bboxes', 'scores', 'labels'):
            torch.testing.assert_close(in_one_pass[key], plain[key])


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
def test_nms_in_one_pass_equals_nms_of_each_class(seed):
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(generator)
    scores = torch.rand(len(boxes), generator=generator)
    labels = torch.randint(20 if seed % 2 else 3, (len(boxes),), generator=generator)
    _, expected = batched_nms(boxes, scores, labels, dict(type='nms', iou_threshold=0.6, split_thr=0))
    torch.testing.assert_close(class_by_class_nms(boxes, scores, labels, 0.6), expected)
    assert 0 < len(expected) < len(boxes)


def test_nms_in_one_pass_keeps_equal_boxes_of_one_pixel_of_different_classes():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2)
    assert class_by_class_nms(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), 0.6).tolist() == [0, 1]


def test_nms_in_one_pass_accepts_no_boxes():
    assert len(class_by_class_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long), 0.6)) == 0
