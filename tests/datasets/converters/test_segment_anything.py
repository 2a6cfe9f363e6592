"""Masks of SA-1B."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api
from support.label_exports import left_out
from test_instance_masks import two_regions

from mmdet_sag.datasets.converters.json_per_image import is_segment_anything, read_segment_anything
from mmdet_sag.datasets.converters.labelled_data import ReadOptions
from mmdet_sag.datasets.converters.masks import encoded
from mmdet_sag.errors import InputError

MASK = two_regions(1, 1)


def annotation(segmentation):
    return dict(
        bbox=[2, 2, 23, 16], area=112, segmentation=segmentation, predicted_iou=0.9, point_coords=[[3.0, 3.0]],
        crop_box=[0, 0, 30, 20], id=1, stability_score=0.97,
    )  # fmt: skip


def put(root, *masks, name='sa_1'):
    root.mkdir(exist_ok=True)
    Image.new('RGB', (30, 20)).save(root / f'{name}.jpg')
    image = dict(image_id=1, width=30, height=20, file_name=f'{name}.jpg')
    content = dict(image=image, annotations=[annotation(mask) for mask in masks or [encoded(MASK), encoded(MASK)]])
    (root / f'{name}.json').write_text(json.dumps(content))
    return root


def test_masks_become_objects_of_the_only_class(tmp_path):
    # Masks of the generator itself are uncompressed.
    flat = np.flatnonzero(np.diff(np.concatenate([[0], MASK.T.ravel(), [0]])))
    counts = np.diff(np.concatenate([[0], flat, [MASK.size]])).tolist()
    root = put(tmp_path / 'in', encoded(MASK), dict(size=[20, 30], counts=counts))
    assert is_segment_anything(root)
    data = read_segment_anything(root, ReadOptions(['thing']))
    assert data.classes == ['thing']
    for item in data.images[0].objects:
        np.testing.assert_array_equal(mask_api.decode(item.segmentation), MASK)
    with pytest.raises(InputError, match='--source-classes NAME'):
        read_segment_anything(root, ReadOptions())


@pytest.mark.parametrize(
    'bad', [None, {}, [[1, 2, 3, 4, 5, 6]], dict(size=[10**9, 30], counts='0'), dict(size=[20, 30])]
)
def test_a_broken_mask_is_left_out(bad, tmp_path):
    data = read_segment_anything(put(tmp_path / 'in', bad, encoded(MASK)), ReadOptions(['thing']))
    assert len(data.images[0].objects) == 1
    assert [error.reason for error in data.left_out['objects']] == ['masks that are not run lengths of the image']
    assert list(left_out(data)) == ['objects']
