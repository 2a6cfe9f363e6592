"""The reference's numbers of Panoptic-CenterMask and the models to compare with them."""

import gzip
import json
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData

from .converter import centermask_names
from .reference import CONFIGS, DATA, Case, make_batch, read_image, synthetic_weight

# The reference's numbers in full, for more models.
SHARED = Path(__file__).parents[3] / 'shared/golden'
MODEL = 'panoptic_centermask/panoptic-centermask_{}_fpn_ms-3x_coco-panoptic.py'
# The part of a case's name that tells the backbone.
BACKBONES = {'r50': 'r50-caffe', 'r101': 'r101-caffe', 'x101': 'x101-32x8d', 'v39': 'v39', 'v57': 'v57', 'v99': 'v99'}
VOID = 133


def load_case(name: str, folder: Path = DATA, device: str = 'cpu') -> Case:
    """Build our model of a case and load the reference's checkpoint into it, strictly."""
    init_default_scope('mmdet')
    path = folder / f'{name}.json'
    text = path.read_bytes() if path.is_file() else gzip.decompress(path.with_name(f'{path.name}.gz').read_bytes())
    facts = json.loads(text)
    with np.load(folder / f'{name}.npz') as file:
        arrays = dict(file)
    arrays.setdefault('image', read_image('panoptic.webp'))
    config = Config.fromfile(CONFIGS / MODEL.format(BACKBONES[name.rpartition('_')[2]]))
    model = MODELS.build(config.model)
    state_dict = {key: synthetic_weight(key, shape) for key, shape in facts['parameters'].items()}
    for key in [key for key in arrays if key.startswith('override/')]:
        state_dict[key[len('override/') :]] = torch.from_numpy(arrays.pop(key))
    renamed, unknown = centermask_names.rename_state_dict(state_dict)
    assert not unknown
    result = model.load_state_dict(renamed, strict=False)
    assert not result.unexpected_keys
    # The reference's frozen norm layers count no batches.
    assert all(key.endswith('num_batches_tracked') for key in result.missing_keys)
    return Case(arrays, facts, config, model.to(device))


def make_test_batch(case: Case) -> dict:
    """The case's image as a data loader gives it, resized already."""
    batch = make_batch([case.arrays['image']])
    width, height = case.facts['output_size']
    input_height, input_width = case.arrays['image'].shape[:2]
    scale_factor = (input_width / width, input_height / height)
    batch['data_samples'][0].set_metainfo(dict(ori_shape=(height, width), scale_factor=scale_factor))
    return batch


def make_training_batch(case: Case) -> dict:
    """The case's image with its objects and its semantic target in MMDetection's numbering."""
    truth = (case.arrays['gt_boxes'], case.arrays['gt_labels'], case.facts['gt_polygons'])
    batch = make_batch([case.arrays['image']], [truth])
    # The reference has 0 for things of any class, then the stuff classes, and 255 where there is nothing.
    labels = np.concatenate([[0], np.arange(80, 133), np.full(202, 255)])
    sem_seg = torch.from_numpy(labels[case.arrays['gt_semantic']].astype(np.uint8))
    batch['data_samples'][0].gt_sem_seg = PixelData(sem_seg=sem_seg[None])
    return batch


def expected_panoptic(case: Case) -> np.ndarray:
    """The case's panoptic map in MMDetection's numbering: label + 1000 x number of the instance, or void."""
    ids = np.full(256, VOID)
    num_things = 0
    for segment in case.facts['segments_info']:
        num_things += segment['isthing']
        ids[segment['id']] = segment['label'] + 1000 * num_things * segment['isthing']
    return ids[case.arrays['panoptic']]
