"""CenterMask as a whole, on what real data throws at it."""

import copy

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, encode_mask_results
from mmengine.structures import InstanceData
from support.cpu_autocast import cpu_autocast
from support.reference import make_batch
from support.tiny import build_tiny, ground_truth, images, sensitive

from mmdet_sag.errors import InputError
from mmdet_sag.structures.mask import RLEMasks

EMPTY = (np.zeros((0, 4)), [], [])


def train_step(model, batch):
    model.train()
    losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert all(value.isfinite() for value in losses.values()), losses
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(grad is not None and grad.isfinite().all() for grad in gradients.values())
    return losses


@torch.no_grad()
def predict(model, batch):
    model.eval()
    return [s.pred_instances for s in model(**model.data_preprocessor(batch, training=False), mode='predict')]


@pytest.mark.parametrize(
    ('shapes', 'truths'),
    [
        ([(64, 64)], [EMPTY]),
        ([(64, 64), (64, 64)], [EMPTY, ground_truth((8, 8, 40, 40))]),
        ([(64, 96), (100, 50)], [ground_truth((8, 8, 40, 40)), ground_truth((1, 1, 49, 99))]),
        ([(64, 64)], [ground_truth((10, 10, 11, 11))]),
        ([(64, 64)], [ground_truth((10, 10, 10.2, 10.1), (30, 30, 60, 60))]),
        ([(64, 64)], [ground_truth((-20, -20, 30, 30), (50, 50, 90, 90))]),
        ([(64, 64)], [ground_truth((0, 0, 64, 64))]),
        ([(33, 17)], [ground_truth((2, 2, 15, 30))]),
        ([(64, 64)], [ground_truth(*[(4 * i, 4, 4 * i + 20, 60) for i in range(10)])]),
    ],
    ids=['no object', 'one image without', 'sizes', 'one pixel', 'subpixel', 'border', 'whole', 'small', 'many'],
)
def test_it_trains_on(shapes, truths, device):
    losses = train_step(build_tiny().to(device), make_batch(images(*shapes), truths))
    assert set(losses) == {'loss_cls', 'loss_bbox', 'loss_centerness', 'loss_mask', 'loss_mask_iou'}


def test_a_crowd_is_neither_target_nor_crash():
    batch = make_batch(images((64, 64)), [EMPTY])
    batch['data_samples'][0].ignored_instances = InstanceData(
        bboxes=torch.tensor([[5.0, 5.0, 60.0, 60.0]]), labels=torch.tensor([1])
    )
    with_crowd = train_step(build_tiny(), batch)
    without = train_step(build_tiny(), make_batch(images((64, 64)), [EMPTY]))
    assert {k: v.item() for k, v in with_crowd.items()} == {k: v.item() for k, v in without.items()}


def test_it_trains_on_bitmap_masks(device):
    batch = make_batch(images((64, 64)), [ground_truth((8, 8, 40, 40), (30, 20, 60, 50))])
    gt_instances = batch['data_samples'][0].gt_instances
    gt_instances.masks = BitmapMasks(gt_instances.masks.to_ndarray().astype(np.uint8), 64, 64)
    train_step(build_tiny().to(device), batch)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_trains_and_predicts(dtype):
    model = build_tiny()
    # No FPN level may have a single position: on CPUs with bfloat16 instructions, PyTorch's convolution now and then
    # returns NaN as the gradient of the weights there.
    batch = make_batch(images((192, 192)), [ground_truth((24, 24, 120, 120))])
    exact = train_step(build_tiny(), batch)
    with cpu_autocast(dtype):
        losses = train_step(model, batch)
        predict(model, make_batch(images((192, 192))))
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.1, abs=0.02), name


def test_losses_are_float32_whatever_the_weights_are():
    model = sensitive(build_tiny()).bfloat16().train()
    data = model.data_preprocessor(make_batch(images((64, 96)), [ground_truth((8, 8, 40, 40))]), True)
    losses = model.loss(data['inputs'].bfloat16(), data['data_samples'])
    assert all(loss.dtype == torch.float32 for loss in losses.values()) and losses['loss_mask_iou'] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_without_detections_results_are_empty_but_whole(device):
    results = predict(build_tiny().to(device), make_batch(images((64, 96), (50, 40))))
    for result, shape in zip(results, [(64, 96), (50, 40)]):
        assert len(result) == 0
        assert isinstance(result.masks, RLEMasks)
        assert result.masks.shape == (0, *shape) and result.mask_scores.shape == (0,)


def test_boxes_and_masks_have_the_original_images_size(device):
    batch = make_batch(images((64, 96), (64, 64)))
    for sample in batch['data_samples']:
        height, width = sample.img_shape
        sample.set_metainfo(dict(ori_shape=(height * 2, width * 3), scale_factor=(1 / 3, 1 / 2)))
    results = predict(sensitive(build_tiny()).to(device), batch)
    for result, (height, width) in zip(results, [(128, 288), (128, 192)]):
        assert len(result) >= 30
        assert result.masks.shape == (len(result), height, width)
        assert result.bboxes.min() >= 0
        assert result.bboxes[:, 2].max() <= width and result.bboxes[:, 3].max() <= height
        assert (result.bboxes[:, 2:] > result.bboxes[:, :2]).all()


@pytest.mark.parametrize('options', [{}, {'inclusive_boxes': True}, {'test_cfg.rcnn.rle_masks': False}])
def test_images_that_nothing_resizes_need_no_factor(options):
    model = sensitive(build_tiny(**options))
    batch = make_batch(images((64, 96)))
    expected = predict(model, copy.deepcopy(batch))[0]
    del batch['data_samples'][0].scale_factor
    assert torch.equal(predict(model, batch)[0].bboxes, expected.bboxes)


def resized_batch():
    batch = make_batch(images((64, 96), (64, 64)))
    for sample in batch['data_samples']:
        height, width = sample.img_shape
        sample.set_metainfo(
            dict(ori_shape=(height * 2 + 1, width * 3), scale_factor=(1 / 3, height / (height * 2 + 1)))
        )
    return batch


@pytest.mark.parametrize('class_agnostic', [False, True])
@pytest.mark.parametrize('rescale', [True, False])
@torch.no_grad()
def test_encoded_masks_are_the_bitmaps(rescale, class_agnostic):
    model = sensitive(build_tiny(**{'roi_head.mask_head.class_agnostic': class_agnostic})).eval()
    results = []
    for rle_masks in (True, False):
        model.roi_head.test_cfg.rle_masks = rle_masks
        batch = model.data_preprocessor(resized_batch())
        results.append(model.predict(batch['inputs'], batch['data_samples'], rescale=rescale))
    for encoded, plain in zip(*results):
        encoded, plain = encoded.pred_instances, plain.pred_instances
        assert isinstance(encoded.masks, RLEMasks) and isinstance(plain.masks, torch.Tensor)
        assert list(encoded.masks) == encode_mask_results(plain.masks.numpy())
        assert plain.masks.any()
        torch.testing.assert_close(encoded.bboxes, plain.bboxes, rtol=0, atol=0)


def test_soft_masks_are_bitmaps(device):
    results = predict(
        sensitive(build_tiny(**{'test_cfg.rcnn.mask_thr_binary': -1})).to(device), make_batch(images((64, 96)))
    )
    assert results[0].masks.dtype == torch.uint8 and results[0].masks.shape[1:] == (64, 96)


def test_masks_are_ranked_by_score_times_predicted_iou_and_boxes_by_score():
    model = sensitive(build_tiny())
    result = predict(model, make_batch(images((64, 64))))[0]
    assert (result.scores.diff() <= 0).all()
    ratio = result.mask_scores / result.scores
    assert ratio.std() > 0 and not torch.equal(result.mask_scores, result.scores)


def test_a_result_does_not_depend_on_the_other_images_of_its_batch():
    model = sensitive(build_tiny())
    small, large = images((64, 64), (64, 128))
    alone = predict(model, make_batch([small]))[0]
    # The second image only pads the first: convs see zeros there, as beyond any border.
    together = predict(model, make_batch([small, small]))[1]
    torch.testing.assert_close(together.bboxes, alone.bboxes, rtol=1e-4, atol=1e-3)
    assert len(predict(model, make_batch([small, large]))) == 2


def test_tensor_mode_returns_the_raw_outputs():
    model = sensitive(build_tiny()).eval()
    batch = model.data_preprocessor(make_batch(images((64, 64))))
    with torch.no_grad():
        outputs = model(**batch, mode='tensor')
    assert len(outputs) == 5 and outputs[3].shape[1:] == (3, 28, 28) and outputs[4].shape[1:] == (3,)


def test_tensor_mode_runs_the_box_head_once():
    model = sensitive(build_tiny()).eval()
    calls = []
    model.bbox_head.register_forward_hook(lambda *args: calls.append(args))
    data = model.data_preprocessor(make_batch(images((64, 96))))
    with torch.no_grad():
        *box_outputs, mask_preds, _ = model(**data, mode='tensor')
        assert len(calls) == 1
        x = model.extract_feat(data['inputs'])
        results_list = model.bbox_head.predict(x, data['data_samples'], rescale=False)
        assert len(mask_preds) == len(results_list[0]) > 0
        for outs, expected in zip(box_outputs, model.bbox_head(x)):
            assert all(torch.equal(*pair) for pair in zip(outs, expected))


@pytest.mark.parametrize('class_agnostic', [True, False])
def test_a_class_agnostic_maskiou_head_scores_every_class(class_agnostic):
    options = {'roi_head.mask_iou_head.num_classes': 1, 'roi_head.mask_head.class_agnostic': class_agnostic}
    model = sensitive(build_tiny(**options))
    train_step(model, make_batch(images((64, 64)), [ground_truth((8, 8, 40, 40), (20, 20, 60, 60))]))
    result = predict(model, make_batch(images((64, 64))))[0]
    assert result.labels.max() > 0 and result.mask_scores.isfinite().all()


def test_a_class_agnostic_mask_head_is_scored_per_class():
    model = sensitive(build_tiny(**{'roi_head.mask_head.class_agnostic': True}))
    train_step(model, make_batch(images((64, 64)), [ground_truth((8, 8, 40, 40))]))
    assert isinstance(predict(model, make_batch(images((64, 64))))[0], InstanceData)


@pytest.mark.parametrize(
    'options',
    [
        {'roi_head.mask_roi_extractor.type': 'SingleRoIExtractor'},
        {'roi_head.mask_iou_head.type': 'MaskIoUHead'},
        {'roi_head.mask_head.type': 'FCNMaskHead', 'train_cfg.rcnn.clip_mask_targets': True},
        {'bbox_head.loss_bbox': dict(type='GIoULoss', loss_weight=1.0)},
        {'test_cfg.bbox_head.clip_boxes': True, 'test_cfg.bbox_head.nms.split_thr': 10000},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_piece_may_be_mmdetections_own(options, device):
    model = sensitive(build_tiny(**options)).to(device)
    train_step(model, make_batch(images((64, 64)), [ground_truth((8, 8, 40, 40))]))
    assert len(predict(model, make_batch(images((64, 64))))[0]) > 0


def test_its_pieces_are_found_under_mmdets_scope():
    model = build_tiny()
    assert type(model).__name__ == 'CenterMask'
    assert model.with_bbox and model.with_mask
    assert isinstance(make_batch(images((8, 8)))['data_samples'][0], DetDataSample)


def test_missing_weights_of_the_backbone_are_named_with_a_remedy_that_trains_all_of_it():
    missing = dict(_delete_=True, type='Pretrained', checkpoint='nowhere.pth')
    with pytest.raises(InputError, match=r"'nowhere\.pth'.* model\.backbone\.init_cfg=None .*norm_eval=False"):
        build_tiny(**{'backbone.init_cfg': missing})


def test_an_object_without_area_changes_no_loss(device):
    # As a crop leaves of an object, and a flip puts at the right border.
    model = build_tiny().to(device).train()
    losses = []
    for boxes in ([(8, 8, 40, 40), (50, 20, 90, 60)], [(0, 0, 0, 0), (8, 8, 40, 40), (96, 0, 96, 0), (50, 20, 90, 60)]):
        boxes, _, polygons = ground_truth(*boxes)
        batch = make_batch(images((64, 96)), [(boxes, [1] * len(boxes), polygons)])
        torch.manual_seed(0)
        losses.append(model(**model.data_preprocessor(batch, training=True), mode='loss'))
    assert losses[0]['loss_mask'] > 0
    torch.testing.assert_close(*losses)
