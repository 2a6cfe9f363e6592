from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import HOOKS, MODELS, VISUALIZERS
from mmengine.structures import InstanceData
from reference import make_batch
from tiny import build_tiny

from mmdet_sag.errors import InputError


@pytest.fixture
def runner(tmp_path):
    model = build_tiny()
    # Random weights find nothing; these find objects everywhere.
    torch.nn.init.constant_(model.bbox_head.conv_cls.bias, 1.0)
    torch.nn.init.constant_(model.bbox_head.conv_reg.bias, 2.0)
    visualizer = VISUALIZERS.build(
        dict(
            type='DetLocalVisualizer',
            name=f'attention{tmp_path.name}',
            vis_backends=[dict(type='LocalVisBackend')],
            save_dir=str(tmp_path),
        )
    )
    visualizer.dataset_meta = dict(classes=('a', 'b', 'c'), palette=[(255, 0, 0), (0, 255, 0), (0, 0, 255)])
    return SimpleNamespace(model=model.eval(), visualizer=visualizer, iter=7)


def validate(runner, hook, tmp_path, batches=3):
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'image.png'), image)
    hook.before_val(runner)
    for i in range(batches):
        batch = make_batch([image])
        batch['data_samples'][0].set_metainfo(dict(img_path=str(tmp_path / 'image.png')))
        with torch.no_grad():
            outputs = runner.model.test_step(batch)
        hook.after_val_iter(runner, i, batch, outputs)
    hook.after_val(runner)


def test_every_nth_batch_gives_a_picture_of_predictions_beside_attention(runner, tmp_path):
    hook = HOOKS.build(dict(type='AttentionVisualizationHook', interval=2))
    validate(runner, hook, tmp_path)
    pictures = sorted(tmp_path.glob('**/attention_*.png'))
    assert [picture.name for picture in pictures] == ['attention_7.png', 'attention_9.png']
    assert len(list(tmp_path.glob('**/*.png'))) == 3
    height, width = cv2.imread(str(pictures[0])).shape[:2]
    assert (height, width) == (64, 2 * 96)


def test_attention_is_pasted_where_the_rois_are(runner, tmp_path):
    hook = HOOKS.build(dict(type='AttentionVisualizationHook'))
    hook._rois = torch.tensor([[0, 10.0, 20.0, 30.0, 40.0], [1, 0.0, 0.0, 96.0, 64.0]])
    left_to_right = torch.linspace(0.6, 0.8, 14).expand(1, 14, 14)
    hook._attention = torch.stack([left_to_right, left_to_right])
    sample = make_batch([np.zeros((64, 96, 3), np.uint8)])['data_samples'][0]
    sample.pred_instances = InstanceData(scores=torch.tensor([0.9]))
    heat = hook._paste(sample)
    assert heat.shape == (64, 96)
    assert heat[30, 20].item() == pytest.approx(0.5, abs=0.05)
    assert heat[30, 28].item() == pytest.approx(0.95, abs=0.05)
    assert heat[:15].max() == 0 and heat[:, 50:].max() == 0


def test_nothing_listens_to_the_model_after_validation(runner, tmp_path):
    validate(runner, HOOKS.build(dict(type='AttentionVisualizationHook')), tmp_path, batches=1)
    assert not any(module._forward_hooks for module in runner.model.modules())


def test_a_model_without_sag_mask_head_is_named(runner):
    runner.model = MODELS.build(dict(type='FCNMaskHead'))
    with pytest.raises(InputError, match='FCNMaskHead has no SAGMaskHead'):
        HOOKS.build(dict(type='AttentionVisualizationHook')).before_val(runner)
