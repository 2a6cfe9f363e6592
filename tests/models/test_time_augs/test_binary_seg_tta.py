from types import SimpleNamespace

import torch
from mmengine.structures import BaseDataElement, PixelData

from mmdet_sag.models import BinarySegTTAModel


def test_probabilities_are_averaged_over_the_views():
    views = [[0.25, 0.5, 1.0], [0.75, 0.25, 0.5]]
    samples = [BaseDataElement(seg_logits=PixelData(data=torch.tensor([[view]]))) for view in views]
    segmentor = torch.nn.Module()
    segmentor.test_step, segmentor.decode_head = None, SimpleNamespace(threshold=0.5)
    model = BinarySegTTAModel(segmentor)
    (merged,) = model.merge_preds([samples])
    assert merged.seg_logits.data.tolist() == [[[0.5, 0.375, 0.75]]]
    assert merged.pred_sem_seg.data.tolist() == [[[0, 0, 1]]]
