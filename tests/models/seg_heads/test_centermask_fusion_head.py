import pytest
import torch
import torch.nn.functional as F
from mmdet.models.seg_heads import HeuristicFusionHead
from mmdet.structures.mask import encode_mask_results
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from support.pretended_cuda import PretendedCUDA

from mmdet_sag.models import CenterMaskFusionHead
from mmdet_sag.structures.mask import RLEMasks

pytestmark = pytest.mark.usefixtures('default_device')

NUM_THINGS, NUM_STUFF = 3, 2
VOID = NUM_THINGS + NUM_STUFF


def merge(boxes, scores, stuff, encoded=False, **options):
    """Merge boxes of class 0, 1, ... with a map of stuff indices on 10 x 10 pixels."""
    head = CenterMaskFusionHead(
        NUM_THINGS,
        NUM_STUFF,
        test_cfg=ConfigDict(dict(score_thr=0.5, mask_overlap=0.5, stuff_area_limit=20), **options),
    )
    masks = torch.zeros(len(boxes), 10, 10, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = True
    instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores),
        labels=torch.arange(len(boxes)),
        masks=RLEMasks(encode_mask_results(masks.cpu().numpy()), 10, 10) if encoded else masks,
    )
    logits = torch.nn.functional.one_hot(torch.as_tensor(stuff), NUM_STUFF + 1).permute(2, 0, 1).float()
    return head.predict([instances], [logits])[0].sem_seg[0]


def all_stuff(index):
    return torch.full((10, 10), index)


def test_random_instances_are_merged_as_mmdetection_merges_them_and_hardly_wait_for_a_gpu(device):
    torch.manual_seed(0)
    cfg = ConfigDict(score_thr=0.3, mask_overlap=0.5, stuff_area_limit=40)
    heads = [kind(NUM_THINGS, NUM_STUFF, test_cfg=cfg) for kind in (CenterMaskFusionHead, HeuristicFusionHead)]
    for _ in range(20):
        logits = F.interpolate(torch.randn(1, NUM_STUFF + 1, 4, 4), (24, 32), mode='bilinear')[0]
        masks = F.interpolate(torch.randn(1, 12, 5, 5), (24, 32), mode='bilinear')[0] > 0.3
        instances = InstanceData(
            bboxes=torch.zeros(12, 4), scores=torch.rand(12), labels=torch.randint(NUM_THINGS, (12,)), masks=masks
        )
        found = heads[0].predict([instances], [logits])[0].sem_seg
        expected = heads[1].predict([instances[instances.scores >= cfg.score_thr]], [logits])[0].sem_seg
        assert torch.equal(found, expected)
    if device != 'cpu':
        return
    with PretendedCUDA() as cuda:
        default_device = heads[0].predict([instances.to(cuda.device)], [logits.to(cuda.device)])[0].sem_seg
        assert torch.equal(default_device.cpu(), found)
    waits = {kind: n for (kind, place), n in cuda.events.items() if 'fusion_head' in place}
    assert waits == {'aten::nonzero': 1}


def test_a_score_of_the_threshold_counts_and_a_lower_one_does_not():
    result = merge([(0, 0, 5, 5), (5, 5, 10, 10)], [0.5, 0.4999], all_stuff(0))
    assert result.unique().tolist() == [NUM_THINGS, 1000]


def test_the_better_instance_lies_on_top_and_keeps_its_pixels():
    result = merge([(0, 0, 6, 10), (4, 0, 10, 10)], [0.6, 0.9], all_stuff(0))
    assert (result[:, 4:] == 1001).all()
    assert (result[:, :4] == 2000).all()


def test_encoded_masks_are_merged_as_bitmaps_are():
    instances = ([(0, 0, 6, 10), (4, 0, 10, 4), (0, 0, 9, 9)], [0.6, 0.9, 0.4], all_stuff(0))
    result = merge(*instances, encoded=True)
    assert result.unique().tolist() == [NUM_THINGS, 1001, 2000]
    torch.testing.assert_close(result, merge(*instances))


def test_an_instance_that_is_half_covered_stays_and_one_that_is_more_goes():
    half = merge([(0, 0, 4, 10), (2, 0, 6, 10)], [0.9, 0.8], all_stuff(0))
    assert half.unique().tolist() == [NUM_THINGS, 1000, 2001]
    more = merge([(0, 0, 4, 10), (1, 0, 5, 10)], [0.9, 0.8], all_stuff(0))
    assert more.unique().tolist() == [NUM_THINGS, 1000]


def test_small_stuff_and_things_without_an_instance_are_void():
    stuff = all_stuff(NUM_STUFF)
    stuff[:2], stuff[2] = 0, 1
    result = merge([], [], stuff)
    assert (result[:2] == NUM_THINGS).all()
    assert (result[2:] == VOID).all()


def test_stuff_is_measured_where_no_instance_lies():
    stuff = all_stuff(0)
    stuff[:3] = 1
    result = merge([(0, 0, 10, 2)], [0.9], stuff)
    assert (result[2] == VOID).all()
