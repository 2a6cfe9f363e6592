"""The reference's numbers and the models to compare with them."""

import gzip
import json
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import PolygonMasks
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from .converter import centermask_names, known_models

CONFIGS = Path(__file__).parents[2] / 'configs'
DATA = Path(__file__).parents[1] / 'data' / 'golden'
CASES = {
    'centermask_r50': 'centermask/centermask_r50-caffe_fpn_ms-3x_coco.py',
    'centermask_v39': 'centermask/centermask_v39_fpn_ms-3x_coco.py',
    'centermask_v39-dcn': 'centermask/centermask_v39-dcn_fpn_ms-3x_coco.py',
    'centermask-lite_v19-slim': 'centermask_lite/centermask-lite_v19-slim_fpn_ms-4x_coco.py',
}
# Our name of each loss, and the reference's
LOSSES = {
    'loss_cls': 'loss_fcos_cls',
    'loss_bbox': 'loss_fcos_loc',
    'loss_centerness': 'loss_fcos_ctr',
    'loss_mask': 'loss_mask',
    'loss_mask_iou': 'loss_maskiou',
}
# Gains away from He's 2, chosen so that logits, masks and mask IoUs stay in a lively but sane range.
GAINS = {
    'cls_logits.weight': 4.0,
    'mask_head.predictor': 0.1,
    'maskiou_head.maskiou.': 2e-4,
    'maskiou.predictor.maskiou.weight': 2e-4,
    'conv_offset': 0.02,
}


class Case(NamedTuple):
    """A case of the reference: its arrays, its other facts, and our model with its weights."""

    arrays: dict
    facts: dict
    config: Config
    model: torch.nn.Module


def synthetic_weight(key: str, shape: list[int]) -> torch.Tensor:
    """The value that both sides of the comparison give to a parameter, from its name and shape alone."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    if key.endswith('.weight') and len(shape) >= 2:
        gain = next((value for name, value in GAINS.items() if name in key), 2.0)
        value = rng.standard_normal(shape) * np.sqrt(gain / np.prod(shape[1:]))
    elif key.endswith(('.weight', '.scale')):
        value = rng.uniform(0.7, 1.3, shape)
    else:
        value = rng.standard_normal(shape) * 0.05
    return torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))


def read_json(name: str) -> dict:
    """Read a compressed JSON file of the reference's numbers."""
    return json.loads(gzip.decompress((DATA / name).read_bytes()))


def load_case(name: str, device: str = 'cpu') -> Case:
    """Build our model of a case and load the reference's checkpoint into it, strictly."""
    facts = read_json(f'{name}.json.gz')
    arrays = read_arrays(DATA / f'{name}.npz')
    state_dict, unknown = centermask_names.rename_state_dict(checkpoint(facts, arrays))
    assert not unknown
    return _load(arrays, facts, Config.fromfile(CONFIGS / CASES[name]), state_dict, device)


def load_first_case(arrays: dict, facts: dict, device: str) -> Case:
    """Build our model of a case of the first implementation, which its parameters tell, and load them, strictly."""
    state_dict, unknown = centermask_names.rename_state_dict(
        centermask_names.rename_to_centermask2(checkpoint(facts, arrays))
    )
    assert not unknown
    config = known_models.recognise_detector(state_dict, known_models.FIRST_CONFIGS).config
    return _load(arrays, facts, config, state_dict, device)


def checkpoint(facts: dict, arrays: dict) -> dict:
    """The reference's checkpoint of a case, by the names there."""
    state_dict = {key: synthetic_weight(key, shape) for key, shape in facts['parameters'].items()}
    for key in [key for key in arrays if key.startswith('override/')]:
        state_dict[key[len('override/') :]] = torch.from_numpy(arrays[key])
    return state_dict


def read_arrays(path: Path) -> dict:
    """Read the arrays of a case."""
    with np.load(path) as file:
        return dict(file)


def _load(arrays: dict, facts: dict, config: Config, state_dict: dict, device: str) -> Case:
    init_default_scope('mmdet')
    model = MODELS.build(config.model)
    result = model.load_state_dict(state_dict, strict=False)
    assert not result.unexpected_keys
    # The reference's frozen norm layers count no batches.
    assert all(key.endswith('num_batches_tracked') for key in result.missing_keys)
    return Case(arrays, facts, config, model.to(device))


def read_image(name: str = 'image.png') -> np.ndarray:
    """An image of the reference's cases, (H, W, 3), BGR."""
    return cv2.imread(str(DATA / name))


def make_batch(images: list[np.ndarray], ground_truth: list[tuple] = ()) -> dict:
    """A batch as a data loader gives it, of images that are not resized.

    Args:
        images: Images (H, W, 3), BGR.
        ground_truth: (boxes, labels, polygons) of each image, for training.
    """
    samples = []
    for i, image in enumerate(images):
        shape = image.shape[:2]
        sample = DetDataSample(metainfo=dict(img_id=i, img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0)))
        if ground_truth:
            boxes, labels, polygons = ground_truth[i]
            sample.gt_instances = InstanceData(
                bboxes=torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                labels=torch.as_tensor(labels, dtype=torch.long),
                masks=PolygonMasks([[np.array(part, float) for part in parts] for parts in polygons], *shape),
            )
            sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        samples.append(sample)
    inputs = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images]
    return dict(inputs=inputs, data_samples=samples)
