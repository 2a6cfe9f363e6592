"""VGG Image Annotator."""

import copy
import json

import numpy as np
import pytest
from PIL import Image
from support.label_exports import left_out

from mmdet_sag.datasets.converters.labelled_data import ReadOptions
from mmdet_sag.datasets.converters.source_files import NOT_LEARNT
from mmdet_sag.datasets.converters.via import is_via, read_via
from mmdet_sag.errors import InputError


def region(kind='rect', attributes=None, **shape):
    shape = shape or dict(x=2, y=3, width=10, height=5)
    return dict(shape_attributes=dict(name=kind, **shape), region_attributes=attributes or dict(type='cat', note='x'))


# Regions as version 2.0.12 writes them.
REGIONS = [
    region('polygon', all_points_x=[2, 12, 12], all_points_y=[3, 3, 13]),
    region(attributes=dict(type='dog', note='x')),
    region('circle', cx=15, cy=10, r=5),
    region('ellipse', cx=15, cy=10, rx=8, ry=4, theta=1.5707963),
    region('polyline', all_points_x=[1, 5], all_points_y=[1, 5]),
    region('point', cx=3, cy=3),
]
ENTRIES = {
    'a.png123': dict(filename='a.png', size=123, regions=REGIONS, file_attributes={}),
    'b.png99': dict(filename='b.png', size=99, regions=[], file_attributes=dict(caption='')),
}
TYPES = dict(
    type=dict(type='dropdown', description='', options=dict(cat='', dog=''), default_options={}),
    note=dict(type='text', description='', default_value=''),
)


def project(types=None, entries=None):
    return dict(
        _via_settings=dict(ui=dict(annotation_editor_height=25), core={}, project=dict(name='p')),
        _via_img_metadata=entries or ENTRIES,
        _via_attributes=dict(region=TYPES if types is None else types, file={}),
        _via_data_format_version='2.0.10',
        _via_image_id_list=list(entries or ENTRIES),
    )


def put(root, content):
    root.mkdir(exist_ok=True)
    for name in ('a.png', 'b.png'):
        Image.new('RGB', (30, 20)).save(root / name)
    (root / 'via.json').write_text(json.dumps(content))
    (root / 'other.json').write_text('{"version": 1}')
    return root


def read(root, **options):
    assert is_via(root)
    return read_via(root, ReadOptions(**options))


def without_notes():
    entries = copy.deepcopy(ENTRIES)
    for item in entries['a.png123']['regions']:
        del item['region_attributes']['note']
    return entries


def version_1():
    entries = without_notes()
    for entry in entries.values():
        entry.update(fileref='', base64_img_data='', regions={str(i): r for i, r in enumerate(entry['regions'])})
    return entries


@pytest.mark.parametrize('content', [project(), project({}, without_notes()), without_notes(), version_1()])
def test_regions_of_all_shapes_become_objects(content, tmp_path):
    data = read(put(tmp_path / 'in', content))
    assert [(image.name, len(image.objects)) for image in data.images] == [('a.png', 4), ('b.png', 0)]
    polygon, rectangle, circle, ellipse = data.images[0].objects
    assert data.classes == ['cat', 'dog']
    assert (polygon.name, polygon.segmentation) == ('cat', [[2, 3, 12, 3, 12, 13]])
    assert (rectangle.name, rectangle.segmentation) == ('dog', [[2, 3, 12, 3, 12, 8, 2, 8]])
    for item, low, high in ((circle, (10, 5), (20, 15)), (ellipse, (11, 2), (19, 18))):
        points = np.reshape(item.segmentation[0], (-1, 2))
        np.testing.assert_allclose([points.min(0), points.max(0)], [low, high], atol=1e-3)
    assert left_out(data)[NOT_LEARNT] == [
        "region 4 of 'a.png': regions of shape 'polyline', which has no area",
        "region 5 of 'a.png': regions of shape 'point', which has no area",
    ]


def test_the_class_is_chosen_or_asked_for(tmp_path):
    root = put(tmp_path / 'in', ENTRIES)
    with pytest.raises(InputError, match=r"\['note', 'type'\] may be the class.*--class-attribute"):
        read(root)
    assert read(root, class_attribute='type').classes == ['cat', 'dog']
    # A project of other images tells the kinds.
    (root / 'a.json').write_text(json.dumps(project(entries={'b.png9': dict(filename='b.png', size=9, regions=[])})))
    content = json.loads((root / 'via.json').read_text())
    (root / 'via.json').write_text(json.dumps({key: entry for key, entry in content.items() if 'b.png' not in key}))
    assert read(root).classes == ['cat', 'dog']
    (root / 'a.json').unlink()
    assert read(root, class_attribute='note').classes == ['x']
    with pytest.raises(InputError, match="no 'kind', but"):
        read(root, class_attribute='kind')
    checked = [region(attributes=dict(type=dict(cat=True, dog=False))), region(attributes=dict(type={}))]
    data = read(put(tmp_path / 'in', project(entries={'a': dict(filename='a.png', size=1, regions=checked)})))
    assert [item.name for item in data.images[0].objects] == ['cat']
    assert left_out(data) == {
        'objects': ["region 1 of 'a.png': regions without one value of 'type'"],
        NOT_LEARNT: [f"'{root}/b.png': images without labels"],
    }


def test_regions_without_attributes_need_a_name(tmp_path):
    bare = dict(region(), region_attributes={})
    root = put(tmp_path / 'in', {'a': dict(filename='a.png', size=1, regions=[bare])})
    with pytest.raises(InputError, match='--source-classes NAME'):
        read(root)
    assert read(root, class_names=['cell']).classes == ['cell']


@pytest.mark.parametrize(
    'broken',
    [
        region('polygon', all_points_x=[1, 2], all_points_y=[1, 2]),
        region('polygon', all_points_x=[1, 2, 3], all_points_y=[1, 2]),
        region('polygon', all_points_x=None),
        region('rect', x='a', y=1, width=2, height=3),
        region('circle', cx=1, cy=1, r=10**400),
        region('star'),
    ],
)
def test_a_broken_region_is_left_out(broken, tmp_path):
    data = read(put(tmp_path / 'in', project(entries={'a': dict(filename='a.png', regions=[broken, region()])})))
    assert len(data.images[0].objects) == 1
    assert [error.place for error in data.left_out['objects']] == ["region 0 of 'a.png'"]
