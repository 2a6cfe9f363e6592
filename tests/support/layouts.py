"""Checkpoints with the names and shapes of the published ones."""

import gzip
import json
from pathlib import Path

import torch

LAYOUTS = json.loads(gzip.decompress((Path(__file__).parents[1] / 'data/layouts.json.gz').read_bytes()))
CONFIGS = {
    'centermask_R_50_FPN_ms_3x': 'centermask/centermask_r50-caffe_fpn_ms-3x_coco.py',
    'centermask_R_101_FPN_ms_3x': 'centermask/centermask_r101-caffe_fpn_ms-3x_coco.py',
    'centermask_X_101_FPN_ms_3x': 'centermask/centermask_x101-32x8d_fpn_ms-3x_coco.py',
    'centermask_V_39_eSE_FPN_ms_3x': 'centermask/centermask_v39_fpn_ms-3x_coco.py',
    'centermask_V_57_eSE_FPN_ms_3x': 'centermask/centermask_v57_fpn_ms-3x_coco.py',
    'centermask_V_99_eSE_FPN_ms_3x': 'centermask/centermask_v99_fpn_ms-3x_coco.py',
    'centermask_V_39_eSE_dcn_FPN_ms_3x': 'centermask/centermask_v39-dcn_fpn_ms-3x_coco.py',
    'centermask_V_57_eSE_dcn_FPN_ms_3x': 'centermask/centermask_v57-dcn_fpn_ms-3x_coco.py',
    'centermask_V_99_eSE_dcn_FPN_ms_3x': 'centermask/centermask_v99-dcn_fpn_ms-3x_coco.py',
    'centermask_lite_Mv2_FPN_ms_4x': 'centermask_lite/centermask-lite_mv2_fpn_ms-4x_coco.py',
    'centermask_lite_V_19_eSE_FPN_ms_4x': 'centermask_lite/centermask-lite_v19_fpn_ms-4x_coco.py',
    'centermask_lite_V_19_slim_eSE_FPN_ms_4x': 'centermask_lite/centermask-lite_v19-slim_fpn_ms-4x_coco.py',
    'centermask_lite_V_19_slim_dw_eSE_FPN_ms_4x': 'centermask_lite/centermask-lite_v19-slim-dw_fpn_ms-4x_coco.py',
    'centermask_lite_V_39_eSE_FPN_ms_4x': 'centermask_lite/centermask-lite_v39_fpn_ms-4x_coco.py',
}
PANOPTIC_CONFIGS = {
    f'panoptic_centermask_{name}_FPN_ms_3x': (
        f'panoptic_centermask/panoptic-centermask_{backbone}_fpn_ms-3x_coco-panoptic.py'
    )
    for name, backbone in (
        ('R_50', 'r50-caffe'),
        ('R_101', 'r101-caffe'),
        ('X_101', 'x101-32x8d'),
        ('V_39_eSE', 'v39'),
        ('V_57_eSE', 'v57'),
        ('V_99_eSE', 'v99'),
    )
}
FIRST_LAYOUTS = json.loads(gzip.decompress((Path(__file__).parents[1] / 'data/layouts_first.json.gz').read_bytes()))
# One layout may belong to several schedules: a file of it gets the config of the longest.
FIRST_CONFIGS = {
    'centermask_M_v2_FPN_1x': 'centermask-first_mv2_fpn_1x_coco.py',
    'centermask_M_v2_FPN_ms_3x': 'centermask-first_mv2_fpn_ms-3x_coco.py',
    'centermask_V_19_eSE_FPN_ms_3x': 'centermask-first_v19_fpn_ms-3x_coco.py',
    **{
        f'centermask_{name}_FPN_{schedule}': f'centermask-first_{backbone}_fpn_ms-3x_coco.py'
        for name, backbone in (
            ('R_50', 'r50-caffe'),
            ('R_101', 'r101-caffe'),
            ('X_101', 'x101-32x8d'),
            ('V_39_eSE', 'v39'),
            ('V_57_eSE', 'v57'),
            ('V_99_eSE', 'v99'),
        )
        for schedule in (('ms_2x', 'ms_3x') if name.startswith('V') else ('1x', 'ms_2x', 'ms_3x'))
    },
    **{f'centermask_V_{n}_eSE_dconv_FPN_1x': f'centermask-first_v{n}-dcn_fpn_1x_coco.py' for n in (39, 57, 99)},
    **{
        f'centermask_{name}_FPN_lite_res600_ms_{schedule}': f'centermask-first-lite_{backbone}_fpn_ms-4x_coco.py'
        for name, backbone in (('M_v2', 'mv2'), ('R_50', 'r50-caffe'), ('V_19_eSE', 'v19'), ('V_39_eSE', 'v39'))
        for schedule in (('bs16_4x',) if name.startswith('V') else ('bs16_4x', 'bs32_1x'))
    },
}
SMALL = 'centermask_lite_V_19_slim_dw_eSE_FPN_ms_4x'


def published_layout(name: str = SMALL, num_classes: int = 80, num_stuff: int = 53) -> dict[str, torch.Tensor]:
    """A state dict with a published checkpoint's names and shapes, each tensor filled with a number of its own.

    The tensors have one element in memory, so that the largest model costs nothing.
    """
    shapes = {key: list(shape) for key, shape in LAYOUTS[name].items()}
    for key, shape in shapes.items():
        if any(layer in key for layer in ('.cls_logits.', '.predictor.', '.maskiou.')) and 'sem_seg' not in key:
            shape[0] = num_classes
        if 'sem_seg_head.predictor' in key:
            shape[0] = num_stuff + 1
    return {key: torch.tensor(float(i + 1)).expand(shape) for i, (key, shape) in enumerate(shapes.items())}


def first_layout(name: str, num_classes: int = 80) -> dict[str, torch.Tensor]:
    """As :func:`published_layout`, of the first implementation; the layers of all classes hold their indices."""
    state_dict = {}
    for i, (key, shape) in enumerate(FIRST_LAYOUTS[name].items()):
        value = torch.tensor(float(i + 1)).expand(shape)
        if any(layer in key for layer in ('.cls_logits.', '.mask_fcn_logits.', '.maskiou.predictor.')):
            count = num_classes + (shape[0] == 81)
            value = torch.arange(float(count)).view(-1, *[1] * (len(shape) - 1)).expand(count, *shape[1:])
        state_dict[key] = value
    return state_dict


def backbone_of(name: str) -> dict[str, torch.Tensor]:
    """The part of a published layout that its authors' ImageNet weights hold, without prefix."""
    prefix = 'backbone.bottom_up.'
    return {key[len(prefix) :]: value for key, value in published_layout(name).items() if key.startswith(prefix)}
