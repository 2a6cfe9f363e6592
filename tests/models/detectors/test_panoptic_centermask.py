"""Panoptic-CenterMask as a whole, on what real data throws at it."""

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.structures import PixelData
from support.reference import make_batch
from support.tiny_panoptic import NUM_STUFF, NUM_THINGS, build_tiny, tiny_config

VOID = NUM_THINGS + NUM_STUFF
NONE = (np.zeros((0, 4)), [], [])
ONE = (np.array([[8.0, 8, 40, 40]]), [1], [[[8, 8, 40, 8, 40, 40, 8, 40]]])


def images(*shapes):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


def training_batch(shapes, truths, labels=(1, NUM_THINGS + 2, 255)):
    batch = make_batch(images(*shapes), truths)
    for sample, shape in zip(batch['data_samples'], shapes):
        target = torch.tensor(labels, dtype=torch.uint8)[torch.arange(np.prod(shape)) % len(labels)]
        sample.gt_sem_seg = PixelData(sem_seg=target.reshape(1, *shape))
    return batch


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
    return model(**model.data_preprocessor(batch, training=False), mode='predict')


@pytest.mark.parametrize(
    ('shapes', 'truths'),
    [([(64, 64)], [ONE]), ([(64, 64)], [NONE]), ([(64, 96), (100, 50)], [ONE, NONE]), ([(33, 41)], [ONE])],
    ids=['one object', 'no object', 'sizes', 'small'],
)
def test_it_trains_on(shapes, truths, device):
    losses = train_step(build_tiny().to(device), training_batch(shapes, truths))
    assert set(losses) == {'loss_cls', 'loss_bbox', 'loss_centerness', 'loss_mask', 'loss_mask_iou', 'loss_seg'}


def test_an_image_without_a_known_pixel_has_no_semantic_loss():
    assert train_step(build_tiny(), training_batch([(64, 64)], [ONE], labels=(255,)))['loss_seg'] == 0


def test_padding_and_unknown_pixels_do_not_count(device):
    model = build_tiny().to(device).eval()
    sizes = [(64, 64), (64, 96)]
    both = model.data_preprocessor(training_batch(sizes, [ONE, ONE]), training=True)
    target = torch.stack([sample.gt_sem_seg.sem_seg for sample in both['data_samples']])
    assert target.shape == (2, 1, 64, 96)
    assert (target[0, :, :, 64:] == 255).all()
    # The mean over the known pixels of the whole batch, at the input's size.
    logits = model.semantic_head(model.extract_feat(both['inputs']))['seg_preds']
    logits = torch.nn.functional.interpolate(logits, scale_factor=4, mode='bilinear', align_corners=False)
    known = target[:, 0] != 255
    labels = torch.where(target < NUM_THINGS, NUM_STUFF, target.int() - NUM_THINGS)[:, 0][known].long()
    expected = -logits.log_softmax(1).permute(0, 2, 3, 1)[known].gather(1, labels[:, None]).mean()
    loss = model(**both, mode='loss')['loss_seg']
    torch.testing.assert_close(loss, 0.5 * expected)


@pytest.mark.parametrize('score_thr', [0.0, 2.0], ids=['instances', 'none at all'])
def test_results_have_the_size_of_the_original_image(score_thr, device):
    model = build_tiny(**{'test_cfg.bbox_head.score_thr': score_thr, 'test_cfg.panoptic.score_thr': 0.0}).to(device)
    batch = make_batch(images((64, 96), (100, 50)))
    for sample, scale in zip(batch['data_samples'], (2, 0.5)):
        height, width = sample.img_shape
        sample.set_metainfo(dict(ori_shape=(int(height / scale), int(width / scale)), scale_factor=(scale, scale)))
    results = predict(model, batch)
    for result in results:
        panoptic = result.pred_panoptic_seg.sem_seg
        assert panoptic.shape == (1, *result.ori_shape)
        assert result.pred_instances.masks.shape[1:] == result.ori_shape
        labels = panoptic.unique() % 1000
        assert ((labels >= NUM_THINGS) == (panoptic.unique() < 1000)).all()
        assert labels.max() <= VOID
        assert bool(len(result.pred_instances)) == (score_thr == 0)


@torch.no_grad()
def test_results_may_stay_at_the_size_of_the_input_without_its_padding(device):
    model = build_tiny().to(device).eval()
    data = model.data_preprocessor(make_batch(images((50, 70))))
    result = model.predict(data['inputs'], data['data_samples'], rescale=False)[0]
    assert result.pred_panoptic_seg.sem_seg.shape == (1, 50, 70)


@torch.no_grad()
def test_forward_gives_the_outputs_of_all_heads():
    model = build_tiny().eval()
    data = model.data_preprocessor(make_batch(images((64, 64))))
    outputs = model(**data, mode='tensor')
    assert outputs[-1].shape == (1, NUM_STUFF + 1, 16, 16)


def test_instances_of_all_scores_are_there_beside_the_map():
    model = build_tiny(**{'test_cfg.bbox_head.score_thr': 0.0, 'test_cfg.panoptic.score_thr': 1.0})
    result = predict(model, make_batch(images((64, 64))))[0]
    assert len(result.pred_instances) > 0
    assert result.pred_panoptic_seg.sem_seg.max() < 1000


def test_a_checkpoint_of_other_class_counts_leaves_the_class_layers(caplog):
    model = build_tiny()
    other = MODELS.build(tiny_config(num_things=4, num_stuff=2).model)
    result = other.load_state_dict(model.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert {key.rpartition('.')[0] for key in result.missing_keys} == set(other.class_layers)


def test_instances_may_start_at_any_level():
    feats = tuple(range(6))
    model = build_tiny()
    assert model.instance_feats(feats) == feats
    model.instance_start_level = 1
    assert model.instance_feats(feats) == (1, 2, 3, 4, 5)
