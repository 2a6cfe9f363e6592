"""The options of CenterMask's first implementation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmdet.structures.mask import encode_mask_results
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData
from support.reference import CONFIGS, make_batch
from support.tiny import build_tiny, tiny_config

from mmdet_sag.errors import InputError
from mmdet_sag.structures.mask import RLEMasks

FOLDER = CONFIGS / 'centermask_first'
WITH_MASK_IOU = FOLDER / 'centermask-first-lite_v19_fpn_ms-4x_coco.py'
WITHOUT_MASK_IOU = FOLDER / 'centermask-first-lite_mv2_fpn_ms-4x_coco.py'
LOSSES = {'loss_cls', 'loss_bbox', 'loss_centerness', 'loss_mask'}


def image(height=64, width=96, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def training_batch():
    x1, y1, x2, y2 = box = (8, 8, 40, 40)
    return make_batch([image()], [([box], [1], [[[x1, y1, x2, y1, x2, y2, x1, y2]]])])


def finding(model):
    """Make the model find many objects: random weights alone find none."""
    torch.nn.init.constant_(model.bbox_head.conv_cls.bias, 1.0)
    torch.nn.init.constant_(model.bbox_head.conv_reg.bias, 2.5)
    if model.roi_head.mask_iou_head is not None:
        torch.nn.init.constant_(model.roi_head.mask_iou_head.fc_mask_iou.bias, 0.5)
    return model


@torch.no_grad()
def predict(model, batch):
    return model.eval().test_step(batch)[0].pred_instances


@pytest.mark.parametrize('path', sorted(FOLDER.glob('*.py')), ids=lambda path: path.stem)
def test_every_config_has_all_that_the_first_implementation_computes_differently(path):
    config = Config.fromfile(path)
    model = config.model
    assert model.data_preprocessor.mean == [102.9801, 115.9465, 122.7717]
    assert model.data_preprocessor.std == [1.0, 1.0, 1.0]
    assert 0 < model.backbone.norm_cfg.eps < 2e-38
    assert not model.bbox_head.norm_on_bbox
    roi_layer = model.roi_head.mask_roi_extractor.roi_layer
    assert (roi_layer.sampling_ratio, roi_layer.aligned) == (2, False)
    assert model.inclusive_boxes
    for cfg in (model.test_cfg.bbox_head, model.train_cfg.proposal):
        assert (cfg.score_thr, cfg.nms.offset) == (0.03, 1)
        assert cfg.clip_boxes and not cfg.sqrt_score
    lite = 'lite' in path.stem
    resize = config.test_dataloader.dataset.pipeline[1]
    assert resize == dict(type='ShortSideResize', scale=(1000, 600) if lite else (1333, 800), backend='pillow')
    has_mask_iou = not ('mv2_fpn_ms' in path.stem or path.stem == 'centermask-first_v19_fpn_ms-3x_coco')
    assert (model.roi_head.mask_iou_head is not None) == has_mask_iou


def test_batch_norm_has_an_epsilon_that_pytorch_takes_and_float32_does_not_see():
    model = build_tiny(path=WITHOUT_MASK_IOU)
    norms = [module for module in model.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.running_var.copy_(
            torch.rand_like(norm.running_var) * 10 ** torch.empty_like(norm.running_var).uniform_(-9, 3)
        )
    with torch.no_grad():
        assert all(feat.isfinite().all() for feat in model.eval().backbone(torch.randn(1, 3, 64, 64)))
    # An epsilon of 0, with which PyTorch 2.11 computes nothing, would give the same.
    assert norms and all(torch.equal(norm.running_var + norm.eps, norm.running_var) for norm in norms)
    assert all(norm.eps > 0 for norm in norms)


def test_freed_norms_train():
    # PyTorch 2.13 refuses an epsilon of 0 in training, 2.11 everywhere.
    model = build_tiny(path=WITHOUT_MASK_IOU, **{'backbone.norm_eval': False, 'backbone.frozen_stages': -1}).train()
    assert all(feat.isfinite().all() for feat in model.backbone(torch.randn(2, 3, 64, 64)))


def test_distances_are_exponentials_in_pixels_in_training_and_testing_alike():
    head = build_tiny(path=WITHOUT_MASK_IOU).bbox_head
    feats = [torch.randn(1, 32, side, side) for side in (8, 4, 2, 1, 1)]
    raw = head.conv_reg(head.reg_convs[1](head.reg_convs[0](feats[1])))
    for mode in (True, False):
        distances = head.train(mode)(feats)[1][1]
        torch.testing.assert_close(distances, (head.scales[1].scale * raw).exp())

    cls_scores = [torch.full((1, 3, side, side), -10.0) for side in (8, 4, 2, 1, 1)]
    distances = [torch.ones(1, 4, side, side) for side in (8, 4, 2, 1, 1)]
    centernesses = [torch.zeros(1, 1, side, side) for side in (8, 4, 2, 1, 1)]
    cls_scores[1][0, 2, 1, 2] = 3.0
    distances[1][0, :, 1, 2] = torch.tensor([10.0, 11.0, 12.0, 100.0])
    metas = [dict(img_shape=(64, 60), scale_factor=(1.0, 1.0))]
    (results,) = head.predict_by_feat(cls_scores, distances, centernesses, batch_img_metas=metas)
    torch.testing.assert_close(results.bboxes, torch.tensor([[30.0, 13.0, 52.0, 63.0]]))
    torch.testing.assert_close(results.scores, torch.tensor([3.0]).sigmoid() * 0.5)


def test_boxes_of_one_pixel_count_as_one_in_nms():
    head = build_tiny(path=WITHOUT_MASK_IOU).bbox_head
    boxes = torch.tensor([[10.0, 10.0, 13.0, 13.0], [10.0, 10.0, 13.0, 12.0]])
    results = InstanceData(bboxes=boxes, scores=torch.tensor([0.9, 0.8]), labels=torch.tensor([0, 0]))
    # 12 of 16 pixels in common, but 6 of 9 between the coordinates: only the first is over 0.7.
    cfg = ConfigDict(head.test_cfg, nms=dict(type='nms', iou_threshold=0.7, offset=1, split_thr=0))
    assert len(head._bbox_post_process(results.clone(), cfg, img_meta={})) == 1
    cfg.nms.offset = 0
    assert len(head._bbox_post_process(results.clone(), cfg, img_meta={})) == 2


@pytest.mark.usefixtures('default_device')
def test_the_image_and_its_whole_box_have_the_same_area():
    extractor = build_tiny(path=WITHOUT_MASK_IOU).roi_head.mask_roi_extractor
    rois = torch.tensor([[0, 0.0, 0.0, 99.0, 79.0], [0, 0.0, 0.0, 99.0, 39.0], [0, 0.0, 0.0, 99.0, 39.1]])
    levels = extractor.map_roi_levels(rois, torch.full((3,), 8000.0))
    assert levels.tolist() == [2, 1, 2]


def pasted(probs, box, height, width):
    """One mask in an image by resizing it to its box, as the first implementation does."""
    probs = F.pad(probs, (1, 1, 1, 1))
    half, center = (box[2:] - box[:2]) / 2 * 30 / 28, (box[2:] + box[:2]) / 2
    x1, y1 = (center - half).int().tolist()
    x2, y2 = (center + half).int().tolist()
    size = (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1))
    small = F.interpolate(probs[None, None], size=size, mode='bilinear', align_corners=False)[0, 0] > 0.5
    mask = torch.zeros(height, width, dtype=torch.bool)
    top, bottom, left, right = max(y1, 0), min(y2 + 1, height), max(x1, 0), min(x2 + 1, width)
    mask[top:bottom, left:right] = small[top - y1 : bottom - y1, left - x1 : right - x1]
    return mask


@pytest.mark.parametrize('rle_masks', [False, True])
@pytest.mark.parametrize('rescale', [True, False])
def test_masks_are_pasted_into_whole_pixels(rescale, rle_masks):
    height, width = 60, 90
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(40, 2, 2, generator=generator) * torch.tensor([width - 1, height - 1])
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    boxes[0] = torch.tensor([0.0, 0.0, width - 1, height - 1])
    boxes[1] = torch.tensor([20.0, 20.0, 20.0, 20.0])
    boxes[2] = torch.tensor([20.0, 20.0, 20.4, 55.0])
    probs = torch.rand(40, 1, 28, 28, generator=generator)
    roi_head = build_tiny(path=WITHOUT_MASK_IOU, **{'test_cfg.rcnn.rle_masks': rle_masks}).roi_head
    roi_head.mask_head.class_agnostic = True
    scale = (0.5, 0.75)
    img_meta = dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0))
    if rescale:
        img_meta.update(img_shape=(46, 46), scale_factor=scale)
    results = InstanceData(
        bboxes=boxes * torch.tensor(scale * 2) if rescale else boxes.clone(), labels=torch.zeros(40, dtype=torch.long)
    )
    (results,) = roi_head.predict_by_feat(probs.logit(), None, [results], [img_meta], rescale=rescale)
    assert isinstance(results.masks, RLEMasks) == rle_masks
    masks = results.masks.to_tensor() if rle_masks else results.masks
    for mask, prob, box in zip(masks, probs[:, 0], boxes, strict=True):
        # Resizing and sampling round differently: a pixel at the threshold may go either way.
        assert (mask != pasted(prob, box, height, width)).sum() <= 1
    torch.testing.assert_close(results.bboxes, boxes + torch.tensor([0, 0, 1, 1]))


@pytest.mark.parametrize('path', [WITH_MASK_IOU, WITHOUT_MASK_IOU], ids=['MaskIoU head', 'no MaskIoU head'])
@pytest.mark.parametrize('rescale', [True, False])
def test_encoded_masks_are_the_bitmaps_bit_by_bit(path, rescale):
    def results(rle_masks):
        model = finding(build_tiny(path=path, **{'test_cfg.rcnn.rle_masks': rle_masks})).eval()
        batch = make_batch([image()])
        batch['data_samples'][0].set_metainfo(dict(ori_shape=(128, 288), scale_factor=(1 / 3, 1 / 2)))
        data = model.data_preprocessor(batch)
        with torch.no_grad():
            return model.predict(data['inputs'], data['data_samples'], rescale=rescale)[0].pred_instances

    encoded, plain = results(True), results(False)
    assert isinstance(encoded.masks, RLEMasks) and isinstance(plain.masks, torch.Tensor)
    assert len(plain) > 20 and plain.masks.any()
    assert list(encoded.masks) == encode_mask_results(plain.masks.numpy())
    torch.testing.assert_close(encoded.bboxes, plain.bboxes)


@pytest.mark.parametrize('place', ['train_cfg', 'train_cfg.proposal', 'test_cfg.bbox_head', 'test_cfg.rcnn'])
def test_the_option_in_its_former_places_is_an_error_that_names_the_new_one(place):
    with pytest.raises(InputError, match='set model.inclusive_boxes=True'):
        build_tiny(**{f'{place}.inclusive_boxes': True})
    assert build_tiny(**{f'{place}.inclusive_boxes': True, 'inclusive_boxes': True}).inclusive_boxes


def test_results_end_one_pixel_after_the_last_one():
    model = finding(build_tiny(path=WITH_MASK_IOU))
    batch = make_batch([image()])
    batch['data_samples'][0].set_metainfo(dict(ori_shape=(128, 288), scale_factor=(1 / 3, 1 / 2)))
    with torch.no_grad():
        data = model.eval().data_preprocessor(batch)
        inclusive = model.bbox_head.predict(model.extract_feat(data['inputs']), data['data_samples'])[0].bboxes
    assert inclusive[:, 0::2].max() == 95 and inclusive[:, 1::2].max() == 63
    results = predict(model, batch)
    assert len(results) == len(inclusive) > 20
    expected = inclusive * torch.tensor([3.0, 2.0, 3.0, 2.0]) + torch.tensor([0, 0, 1, 1])
    torch.testing.assert_close(results.bboxes, expected)
    assert results.masks.shape[1:] == (128, 288)


@pytest.mark.usefixtures('default_device')
def test_no_box_is_dropped_for_being_narrow():
    model = build_tiny(path=WITHOUT_MASK_IOU)
    bboxes = torch.tensor([[95.0, 3.0, 95.0, 50.0], [4.0, 63.0, 50.0, 63.0]])
    results = InstanceData(bboxes=bboxes, scores=torch.ones(2), labels=torch.zeros(2, dtype=torch.long))
    metas = [dict(img_shape=(64, 96), ori_shape=(64, 96), scale_factor=(1.0, 1.0))]
    (results,) = model.roi_head.predict_by_feat(torch.ones(2, 3, 28, 28), None, [results], metas, rescale=True)
    assert results.masks.to_tensor().any(2).any(1).tolist() == [True, True]


def test_without_a_mask_iou_head_masks_have_no_score_of_their_own():
    model = finding(build_tiny(path=WITHOUT_MASK_IOU))
    results = predict(model, make_batch([image()]))
    assert len(results) > 20 and 'mask_scores' not in results
    torch.nn.init.constant_(model.bbox_head.conv_cls.bias, -100.0)
    empty = predict(model, make_batch([image()]))
    assert empty.masks.shape == (0, 64, 96) and 'mask_scores' not in empty
    assert 'mask_scores' in predict(finding(build_tiny(path=WITH_MASK_IOU)), make_batch([image()]))


@pytest.mark.parametrize('path', [WITH_MASK_IOU, WITHOUT_MASK_IOU], ids=['MaskIoU head', 'no MaskIoU head'])
def test_training_steps_lower_the_loss(path, device):
    config = tiny_config(path=path)
    model = build_tiny(path=path).to(device).train()
    config.optim_wrapper.optimizer.lr = 0.005
    # Without the statistics of ImageNet weights the features are large.
    config.optim_wrapper.clip_grad = dict(max_norm=1)
    optim_wrapper = build_optim_wrapper(model, config.optim_wrapper)
    history = []
    for _ in range(12):
        losses = model(**model.data_preprocessor(training_batch(), training=True), mode='loss')
        assert set(losses) == (LOSSES | {'loss_mask_iou'} if path == WITH_MASK_IOU else LOSSES)
        assert all(loss.isfinite() for loss in losses.values())
        history.append({name: loss.item() for name, loss in losses.items()})
        optim_wrapper.zero_grad()
        optim_wrapper.backward(sum(losses.values()))
        assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
        optim_wrapper.step()
    for name in ('loss_cls', 'loss_mask'):
        assert history[-1][name] < history[0][name]


def test_what_a_training_shows_is_what_a_result_is():
    model = build_tiny(path=WITHOUT_MASK_IOU)
    batch = training_batch()
    sample = batch['data_samples'][0]
    sample.set_metainfo(dict(scale_factor=(1.5, 2.0)))
    seen = []
    loss_by_feat = model.bbox_head.loss_by_feat
    model.bbox_head.loss_by_feat = lambda *args, **kwargs: seen.append(args[3]) or loss_by_feat(*args, **kwargs)
    model.train()(**model.data_preprocessor(batch, training=True), mode='loss')
    # The last pixel of the object in the original image, which results end one after.
    torch.testing.assert_close(seen[0][0].bboxes, torch.tensor([[8.0, 8.0, 40 - 1.5, 40 - 2.0]]))
    torch.testing.assert_close(sample.gt_instances.bboxes, torch.tensor([[8.0, 8.0, 40.0, 40.0]]))


def test_a_ground_truth_box_thinner_than_a_pixel_stays_a_box():
    model = build_tiny(path=WITHOUT_MASK_IOU).train()
    batch = make_batch([image()], [([(8, 8, 8.5, 40)], [1], [[[8, 8, 8.5, 8, 8.5, 40, 8, 40]]])])
    losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
    assert all(loss.isfinite() for loss in losses.values())


@torch.no_grad()
@pytest.mark.parametrize('path', [WITH_MASK_IOU, WITHOUT_MASK_IOU], ids=['MaskIoU head', 'no MaskIoU head'])
def test_a_flipped_view_gives_the_mirrored_result(path, device):
    model = finding(build_tiny(path=path)).to(device).eval()
    tta = MODELS.build(dict(type='CenterMaskTTAModel', module=model, tta_cfg=Config.fromfile(path).tta_model.tta_cfg))

    def results(flip):
        batch = make_batch([image()])
        batch['data_samples'][0].set_metainfo(dict(flip=flip, flip_direction='horizontal' if flip else None))
        return tta.test_step({key: [value] for key, value in batch.items()})[0].pred_instances[:10].cpu()

    # The network sees the same picture twice, which is said to be the mirrored one the second time.
    plain, mirrored = results(False), results(True)
    assert ('mask_scores' in plain) == (path == WITH_MASK_IOU)
    width = image().shape[1]
    expected = plain.bboxes[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([width, 0, width, 0])
    torch.testing.assert_close(mirrored.bboxes, expected, rtol=1e-3, atol=0.05)
    torch.testing.assert_close(plain.bboxes, predict(model, make_batch([image()])).bboxes[:10].cpu())
