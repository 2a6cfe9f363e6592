"""What the workers of a loader share: annotations are one array of bytes, of which a fork makes no copy."""

import json
import pickle

import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmengine.config import Config
from support.reference import CONFIGS

from mmdet_sag.checks.run import hand_over
from mmdet_sag.datasets.coco_file import load_coco

NUM_IMAGES = 300


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Annotation files of images with three polygons of 30 corners each."""
    folder = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    images = [dict(id=i, file_name=f'{i}.png', width=64, height=48) for i in range(NUM_IMAGES)]
    annotations = [
        dict(
            id=i + 1,
            image_id=i // 3,
            category_id=1 + i % 2,
            bbox=[2, 2, 40, 40],
            area=900,
            iscrowd=0,
            segmentation=[(rng.random(60) * 48).round(2).tolist()],
        )
        for i in range(3 * NUM_IMAGES)
    ]
    segments = [
        dict(image_id=i, file_name=f'{i}.png', segments_info=[dict(id=1, category_id=3, iscrowd=0)])
        for i in range(NUM_IMAGES)
    ]
    categories = [dict(id=i, name=name) for i, name in enumerate(('cat', 'dog', 'sky'), 1)]
    for name, content, number in (('instances', annotations, 2), ('panoptic', segments, 3)):
        content = dict(images=images, annotations=content, categories=categories[:number])
        (folder / f'{name}.json').write_text(json.dumps(content))
    return folder


def instances() -> dict:
    config = Config.fromfile(CONFIGS / 'centermask/centermask_r50-caffe_fpn_ms-3x_coco.py').train_dataloader.dataset
    return {**config, 'metainfo': dict(classes=('cat', 'dog')), 'data_prefix': dict(img='')}


def panoptic() -> dict:
    path = CONFIGS / 'panoptic_centermask/panoptic-centermask_r50-caffe_fpn_ms-3x_coco-panoptic.py'
    names = dict(classes=('cat', 'dog', 'sky'), thing_classes=('cat', 'dog'), stuff_classes=('sky',))
    config = Config.fromfile(path).train_dataloader.dataset
    return {**config, 'metainfo': names, 'data_prefix': dict(img='', seg=''), 'panoptic_ann_file': 'panoptic.json'}


@pytest.mark.parametrize('kind', [instances, panoptic])
def test_a_data_set_keeps_annotations_as_bytes_alone(folder, kind):
    path = f'{folder}/instances.json'
    with hand_over({path: load_coco(path)}):
        dataset = DATASETS.build({**kind(), 'data_root': f'{folder}/', 'ann_file': 'instances.json'})
    assert len(dataset) == NUM_IMAGES and len(dataset.get_data_info(0)['instances']) == 3
    rest = {key: value for key, value in vars(dataset).items() if key not in ('data_bytes', 'data_address')}
    assert len(dataset.data_bytes) > 500 * NUM_IMAGES > 20 * len(pickle.dumps(rest))
