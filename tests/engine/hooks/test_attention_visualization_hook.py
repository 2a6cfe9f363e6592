from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import HOOKS, MODELS, VISUALIZERS
from mmengine.config import ConfigDict
from support.reference import make_batch
from support.tiny import build_tiny

from mmdet_sag.errors import InputError

TTA = dict(type='CenterMaskTTAModel', tta_cfg=ConfigDict(nms=dict(type='nms', iou_threshold=0.6), max_per_img=100))


@pytest.fixture
def runner(tmp_path):
    model = build_tiny()
    # Random weights find nothing; these find objects everywhere.
    torch.nn.init.constant_(model.bbox_head.conv_cls.bias, 1.0)
    torch.nn.init.constant_(model.bbox_head.conv_reg.bias, 2.0)
    visualizer = VISUALIZERS.build(
        dict(
            type='InstanceLocalVisualizer',
            name=f'attention{tmp_path.name}',
            vis_backends=[dict(type='LocalVisBackend')],
            save_dir=str(tmp_path),
        )
    )
    visualizer.dataset_meta = dict(classes=('a', 'b', 'c'), palette=[(255, 0, 0), (0, 255, 0), (0, 0, 255)])
    return SimpleNamespace(model=model.eval(), visualizer=visualizer, iter=7)


@pytest.fixture
def image(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'image.png'), image)
    return image


def view(image, tmp_path, flip=False):
    """A batch of an image as a test pipeline gives it."""
    batch = make_batch([np.ascontiguousarray(image[:, ::-1]) if flip else image])
    batch['data_samples'][0].set_metainfo(
        dict(img_path=str(tmp_path / 'image.png'), flip=flip, flip_direction='horizontal' if flip else None)
    )
    return batch


def augmented(*views):
    """A batch of an image's views as test-time augmentation gives it."""
    return {key: [single[key] for single in views] for key in views[0]}


def validate(runner, hook, batches):
    hook.before_run(runner)
    hook.before_val(runner)
    for i, batch in enumerate(batches):
        with torch.no_grad():
            outputs = runner.model.test_step(batch)
        hook.after_val_iter(runner, i, batch, outputs)
    hook.after_val(runner)


def test_every_nth_batch_gives_a_picture_of_predictions_beside_attention(runner, image, tmp_path):
    hook = HOOKS.build(dict(type='AttentionVisualizationHook', interval=2))
    validate(runner, hook, [view(image, tmp_path) for _ in range(3)])
    pictures = sorted(tmp_path.glob('**/attention_*.png'))
    assert [picture.name for picture in pictures] == ['attention_7.png', 'attention_9.png']
    assert len(list(tmp_path.glob('**/*.png'))) == 3
    # Enlarged five times, with the classes of many detections in a strip below.
    height, width = cv2.imread(str(pictures[0])).shape[:2]
    assert width == 2 * 8 * 96 and height >= 8 * 64


def test_a_test_does_not_ask_for_the_iteration_of_a_training(runner, image, tmp_path):
    class TestRunner(SimpleNamespace):
        @property
        def iter(self):
            raise AssertionError('this would build the training data set')

    runner = TestRunner(model=runner.model, visualizer=runner.visualizer)
    hook = HOOKS.build(dict(type='AttentionVisualizationHook', interval=1))
    hook.before_run(runner)
    hook.before_test(runner)
    batch = view(image, tmp_path)
    with torch.no_grad():
        hook.after_test_iter(runner, 0, batch, runner.model.test_step(batch))
    hook.after_test(runner)
    assert [picture.name for picture in tmp_path.glob('**/attention_*.png')] == ['attention_0.png']


def attention_of(runner, batch, monkeypatch):
    """The attention that is drawn, (H, W), for the detections that are drawn."""
    hook = HOOKS.build(dict(type='AttentionVisualizationHook', interval=1))
    drawn = []
    monkeypatch.setattr(
        hook, '_draw', lambda visualizer, sample, heat: drawn.append(heat) or np.zeros((2, 2, 3), np.uint8)
    )
    validate(runner, hook, [batch])
    return drawn[0]


def test_augmented_views_are_drawn_in_the_original_image(runner, image, tmp_path, monkeypatch):
    detector, runner.model = runner.model, MODELS.build(dict(module=runner.model, **TTA))
    plain = attention_of(runner, augmented(view(image, tmp_path)), monkeypatch)
    # The flipped view of the mirrored image: the network sees the very same pixels.
    mirrored = np.ascontiguousarray(image[:, ::-1])
    flipped = attention_of(runner, augmented(view(mirrored, tmp_path, flip=True)), monkeypatch)
    np.testing.assert_allclose(flipped, plain[:, ::-1], atol=0.02)
    assert np.abs(plain - plain[:, ::-1]).max() > 0.2, 'the case needs an attention that is not symmetric'

    # Of several views it is the first that is drawn, whatever the others are.
    several = augmented(view(image, tmp_path, flip=True), view(image, tmp_path))
    calls = []
    handle = detector.roi_head.mask_roi_extractor.register_forward_hook(lambda *args: calls.append(args[1][1]))
    first = attention_of(runner, several, monkeypatch)
    handle.remove()
    assert len(calls) == 2 and not torch.equal(*calls)
    assert first.shape == (64, 96) and first.max() > 0.9


def test_nothing_listens_to_the_model_after_validation(runner, image, tmp_path):
    validate(runner, HOOKS.build(dict(type='AttentionVisualizationHook')), [view(image, tmp_path)])
    assert not any(module._forward_hooks for module in runner.model.modules())


def test_a_model_without_sag_mask_head_is_named_before_anything_runs(runner):
    runner.model = MODELS.build(dict(type='FCNMaskHead'))
    with pytest.raises(InputError, match='FCNMaskHead has no SAGMaskHead'):
        HOOKS.build(dict(type='AttentionVisualizationHook')).before_run(runner)
