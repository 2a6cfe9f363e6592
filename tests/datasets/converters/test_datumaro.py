"""Datumaro's JSON files."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api
from support.label_exports import left_out
from test_instance_masks import two_regions

from mmdet_sag.datasets.converters.datumaro import is_datumaro, read_datumaro
from mmdet_sag.datasets.converters.labelled_data import ReadOptions
from mmdet_sag.datasets.converters.masks import encoded
from mmdet_sag.datasets.converters.source_files import NOT_LEARNT

MASK = two_regions(1, 1)


def annotation(kind, label=0, group=0, **more):
    return dict(id=0, type=kind, attributes=dict(occluded=False), group=group, label_id=label, z_order=0, **more)


ANNOTATIONS = [
    annotation('polygon', points=[2.0, 3.0, 12.0, 3.0, 12.0, 13.5]),
    annotation('mask', 1, rle=encoded(MASK)),
    annotation('bbox', bbox=[4.0, 6.0, 10.0, 4.0]),
    annotation('polygon', group=3, points=[0, 0, 5, 0, 5, 5]),
    annotation('polygon', group=3, points=[20, 0, 25, 0, 25, 5]),
    annotation('polyline', points=[1, 1, 5, 5]),
    annotation('label'),
]


def put(root, annotations=ANNOTATIONS, splits=('train', 'val')):
    (root / 'annotations').mkdir(parents=True)
    labels = [dict(name=name, parent='', attributes=[]) for name in ('mast', 'bird', 'unused')]
    for split in splits:
        (root / 'images' / split).mkdir(parents=True)
        Image.new('RGB', (30, 20)).save(root / f'images/{split}/{split}.png')
        image = dict(path=f'{split}.png', size=[20, 30])
        item = dict(id=split, annotations=annotations, attr=dict(frame=0), image=image)
        content = dict(
            info={}, categories=dict(label=dict(labels=labels), mask=dict(colormap=[])), items=[item]
        )  # fmt: skip
        (root / f'annotations/{split}.json').write_text(json.dumps(content))
    return root


def test_annotations_of_all_kinds_become_objects(tmp_path):
    root = put(tmp_path / 'in')
    assert is_datumaro(root)
    data = read_datumaro(root, ReadOptions())
    assert [image.split for image in data.images] == ['train', 'val']
    assert data.classes == ['mast', 'bird']
    polygon, mask, box, group = data.images[0].objects
    assert (polygon.name, polygon.segmentation) == ('mast', [[2, 3, 12, 3, 12, 13.5]])
    np.testing.assert_array_equal(mask_api.decode(mask.segmentation), MASK)
    assert (mask.name, box.segmentation) == ('bird', [[4, 6, 14, 6, 14, 10, 4, 10]])
    assert len(group.segmentation) == 2
    assert {kind: len(places) for kind, places in left_out(data).items()} == {NOT_LEARNT: 4}
    # As some versions write it.
    for path in root.glob('annotations/*.json'):
        path.write_text(path.read_text().replace('"info":', '"infos":'))
    assert is_datumaro(root)


@pytest.mark.parametrize(
    'bad',
    [
        annotation('polygon', points=[1, 2, 3, 4, 5]),
        annotation('polygon', points=None),
        annotation('bbox', bbox=[1, 2, 3]),
        annotation('mask', rle=dict(size=[9, 9], counts='0')),
        annotation('polygon', 7, points=[0, 0, 5, 0, 5, 5]),
        annotation('star'),
    ],
)
def test_a_broken_annotation_is_left_out(bad, tmp_path):
    data = read_datumaro(put(tmp_path / 'in', [bad, ANNOTATIONS[0]], ['train']), ReadOptions())
    assert len(data.images[0].objects) == 1
    assert list(left_out(data)) == ['objects']
