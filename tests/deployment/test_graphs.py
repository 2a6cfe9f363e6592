"""The graph that is exported computes the same as the detector."""

from pathlib import Path

import pytest
import torch
from mmdet.structures import DetDataSample
from support.tiny_box_heads import HEADS, lively
from support.tiny_export import lively_tiny, lively_two_stage
from support.tiny_points import build_points, fcos_points_model, make_lively

from mmdet_sag.deployment.comparison import detect_with_pytorch
from mmdet_sag.deployment.graphs import build_graph
from mmdet_sag.errors import InputError

pytestmark = pytest.mark.usefixtures('without_tf32')

ROOT = Path(__file__).parents[2]
SIZES = torch.tensor([[90, 120], [96, 101]])
FIRST = ROOT / 'configs/centermask_first/centermask-first-lite_v19_fpn_ms-4x_coco.py'

# Their post-processing is their own.
NOT_EXPORTED = ['SABL', 'PAA', 'TOOD']


def images(std: float = 30.0) -> torch.Tensor:
    batch = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1)) * std
    for image, (height, width) in zip(batch, SIZES.tolist()):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return batch


def skip_views_of_weights(has_them: bool, pretended_gpu: object) -> None:
    if has_them and pretended_gpu is not None:
        pytest.skip('a pretended GPU cannot take a view of a weight in inference mode')


def check(detector: torch.nn.Module, batch: torch.Tensor, device: str) -> int:
    detector, batch = detector.to(device), batch.to(device)
    samples = [
        DetDataSample(
            metainfo=dict(
                img_shape=size,
                ori_shape=size,
                scale_factor=(1.0, 1.0),
                batch_input_shape=(96, 128),
                pad_shape=(96, 128),
            )
        )
        for size in map(tuple, SIZES.tolist())
    ]
    expected = detect_with_pytorch(detector, batch, samples)
    with torch.inference_mode():
        outputs = build_graph(detector)(batch, SIZES.to(device))
    assert outputs.image_indices.tolist() == [i for i, results in enumerate(expected) for _ in range(len(results))]
    if not len(outputs.boxes):
        assert outputs.mask_probs.shape == (0, 28, 28)
        return 0
    names = dict(boxes='bboxes', scores='scores', labels='labels', mask_probs='mask_probs', mask_scores='mask_scores')
    for name, key in names.items():
        torch.testing.assert_close(
            getattr(outputs, name), torch.cat([results[key] for results in expected]), atol=2e-4, rtol=1e-4
        )
    return len(outputs.boxes)


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'test_cfg.bbox_head.max_per_img': 5},
        {'test_cfg.bbox_head.keep_ties': False, 'test_cfg.bbox_head.max_per_img': 5},
        {'test_cfg.bbox_head.rank_by_centerness': False, 'test_cfg.bbox_head.nms_pre': 40},
        {'roi_head.mask_iou_head': None},
        {'roi_head.mask_head.class_agnostic': True, 'roi_head.mask_iou_head': None},
        {'backbone.arch': 'V-19-slim', 'backbone.dcn': dict(type='DCNv2', deform_groups=1)},
    ],
    ids=['centermask', 'few', 'no ties', 'ranked by class', 'no mask IoU', 'class-agnostic', 'dcn'],
)
def test_centermask(options, device):
    assert check(lively_tiny(**options), images(), device) > 5


def test_the_first_implementation(device):
    assert check(lively_tiny(FIRST), images(), device) > 5


def test_no_detection_at_all(device):
    assert check(lively_tiny(**{'test_cfg.bbox_head.score_thr': 0.999}), images(), device) == 0


@pytest.mark.parametrize('name', ['mask-rcnn', 'cascade-mask-rcnn', 'htc', 'scnet', 'groie', 'ms-rcnn', 'detectors'])
def test_two_stage_detectors_with_spatial_attention(name, device, pretended_gpu):
    skip_views_of_weights(name == 'detectors' and device != 'cpu', pretended_gpu)
    assert check(lively_two_stage(name), images(std=1.0), device) > 2


@pytest.mark.parametrize('options', [{}, dict(saliency='class-agnostic')], ids=['class-specific', 'class-agnostic'])
def test_centermask_by_points(options, device):
    detector = build_points(**options).eval()
    make_lively(detector)
    assert check(detector, images(std=1.0), device) > 20


@pytest.mark.parametrize(
    'options',
    [{}, dict(saliency='class-agnostic'), dict(saliency=None), dict(shape_size=0)],
    ids=['class-specific', 'class-agnostic', 'shape alone', 'saliency alone'],
)
def test_centermask_by_points_beside_fcos(options, device):
    detector = build_points(fcos_points_model, **options).eval()
    make_lively(detector)
    assert check(detector, images(std=1.0), device) > 20


@pytest.mark.parametrize('name', [name for name in HEADS if name not in NOT_EXPORTED])
def test_centermask_behind_other_box_heads(name, device, pretended_gpu):
    skip_views_of_weights(name == 'RepPoints' and device != 'cpu', pretended_gpu)
    assert check(lively(HEADS[name]), images(std=1.0), device) >= 10


@pytest.mark.parametrize('name', NOT_EXPORTED)
def test_box_heads_that_post_process_otherwise_are_refused(name):
    if name == 'PAA':
        pytest.importorskip('sklearn')
    with pytest.raises(InputError, match='cannot be exported'):
        build_graph(lively(HEADS[name]))


def test_a_soft_nms_is_refused():
    detector = lively_tiny(**{'test_cfg.bbox_head.nms.type': 'soft_nms'})
    with pytest.raises(InputError, match='soft_nms cannot be exported'):
        build_graph(detector)
