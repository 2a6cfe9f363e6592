import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from support.reference import make_batch

from mmdet_sag.visualization.attention_recorder import paste_attention

pytestmark = pytest.mark.usefixtures('default_device')


@pytest.mark.parametrize('flip, bright, dark', [(False, 28, 20), (True, 67, 75)])
def test_attention_is_pasted_where_the_rois_are(flip, bright, dark):
    rois = torch.tensor([[0, 10.0, 20.0, 30.0, 40.0], [1, 0.0, 0.0, 96.0, 64.0]])
    left_to_right = torch.linspace(0.6, 0.8, 14).expand(1, 14, 14)
    sample = make_batch([np.zeros((64, 96, 3), np.uint8)])['data_samples'][0]
    # Nothing has resized the image.
    del sample.scale_factor
    sample.set_metainfo(dict(flip=flip, flip_direction='horizontal' if flip else None))
    sample.pred_instances = InstanceData(scores=torch.tensor([0.9]))
    heat = paste_attention(rois, torch.stack([left_to_right, left_to_right]), sample, sample, score_thr=0.3)
    assert heat.shape == (64, 96)
    assert heat[30, dark] == pytest.approx(0.5, abs=0.05)
    assert heat[30, bright] == pytest.approx(0.95, abs=0.05)
    far = heat[:, :45] if flip else heat[:, 50:]
    assert heat[:15].max() == 0 and far.max() == 0
