"""'CVAT for images 1.1'."""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api
from support.label_exports import left_out

from mmdet_sag.datasets.converters import LabelConversion
from mmdet_sag.datasets.converters.cvat import is_cvat, read_cvat
from mmdet_sag.datasets.converters.labelled_data import ReadOptions
from mmdet_sag.datasets.converters.source_files import NOT_LEARNT
from mmdet_sag.errors import InputError

# As CVAT 2 writes it; the mask is that of its own encoder, for a rectangle with a hole.
EXPORT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <project>
      <id>3</id>
      <name>masts</name>
      <labels>
        <label>
          <name>mast</name>
          <color>#8c78f0</color>
          <type>any</type>
          <attributes>
            <attribute><name>material</name><input_type>select</input_type><values>wood</values></attribute>
          </attributes>
        </label>
        <label><name>unused</name><color>#ff0000</color><type>any</type><attributes></attributes></label>
        <label><name>bird</name><color>#00ff00</color><type>any</type><attributes></attributes></label>
      </labels>
    </project>
    <dumped>2024-05-02 09:00:00.000000+00:00</dumped>
  </meta>
  <image id="0" name="north/a.png" subset="Train" task_id="1" width="30" height="20">
    <polygon label="mast" source="manual" occluded="0" points="2.00,3.00;12.00,3.00;12.00,13.50" z_order="0">
      <attribute name="material">wood</attribute>
    </polygon>
    <box label="mast" source="manual" occluded="0" xtl="4.00" ytl="6.00" xbr="14.00" ybr="10.00" z_order="0">
    </box>
    <box label="mast" source="manual" occluded="1" xtl="4.00" ytl="6.00" xbr="14.00" ybr="10.00" rotation="90.00"
         z_order="0"></box>
    <ellipse label="bird" source="manual" occluded="0" cx="15.00" cy="10.00" rx="8.00" ry="4.00" rotation="90.00"
             z_order="0"></ellipse>
    <mask label="bird" source="semi-auto" occluded="0" rle="0, 40, 3, 9, 3, 9, 3, 53" left="8" top="5" width="12"
          height="10" z_order="0"></mask>
    <polygon label="mast" source="manual" occluded="0" points="0,0;5,0;5,5" z_order="0" group_id="2"></polygon>
    <polygon label="mast" source="manual" occluded="0" points="20,0;25,0;25,5" z_order="0" group_id="2"></polygon>
    <polygon label="bird" source="manual" occluded="0" points="20,0;25,0;25,5" z_order="0" group_id="2"></polygon>
    <polyline label="mast" source="manual" occluded="0" points="1,1;5,5" z_order="0"></polyline>
    <points label="bird" source="manual" occluded="0" points="7,7" z_order="0"></points>
    <tag label="mast" source="manual"></tag>
  </image>
  <image id="1" name="b.png" subset="Validation" task_id="1" width="30" height="20">
  </image>
</annotations>
"""


def put(root, text=EXPORT, places=('images/Train/north/a.png', 'images/Validation/b.png')):
    for place in places:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (30, 20)).save(root / place)
    root.mkdir(parents=True, exist_ok=True)
    (root / 'annotations.xml').write_text(text, encoding='utf-8')
    return root


def read(root, **options):
    assert is_cvat(root)
    return read_cvat(root, ReadOptions(**options))


def test_shapes_of_all_kinds_become_objects(tmp_path):
    data = read(put(tmp_path))
    first, second = data.images
    assert [(image.name, image.split) for image in data.images] == [('north/a.png', 'train'), ('b.png', 'val')]
    assert data.classes == ['mast', 'bird'] and second.objects == []
    polygon, box, turned, ellipse, mask, group, other = first.objects
    assert polygon.segmentation == [[2, 3, 12, 3, 12, 13.5]]
    assert box.segmentation == [[4, 6, 14, 6, 14, 10, 4, 10]]
    assert sorted(zip(*[iter(turned.segmentation[0])] * 2)) == [(7, 3), (7, 13), (11, 3), (11, 13)]
    points = np.reshape(ellipse.segmentation[0], (-1, 2))
    np.testing.assert_allclose([points.min(0), points.max(0)], [(11, 2), (19, 18)])
    expected = np.zeros((20, 30), bool)
    expected[5:15, 8:20], expected[8:11, 12:15] = True, False
    np.testing.assert_array_equal(mask_api.decode(mask.segmentation), expected)
    assert len(group.segmentation) == 2 and (other.name, len(other.segmentation)) == ('bird', 1)
    assert left_out(data) == {
        NOT_LEARNT: [
            "shape 8 of 'north/a.png': shapes of type 'polyline', which has no area",
            "shape 9 of 'north/a.png': shapes of type 'points', which has no area",
        ]
    }


def test_equal_names_are_told_apart_by_folder_and_subset(tmp_path):
    text = EXPORT.replace('name="b.png"', 'name="north/a.png"')
    data = read(put(tmp_path, text, ('images/Train/north/a.png', 'images/Validation/north/a.png')))
    assert [image.split for image in data.images] == ['train', 'val']
    assert [len(image.objects) for image in data.images] == [7, 0]
    with pytest.raises(InputError, match='may be .* or .*: rename one'):
        read(put(tmp_path, text.replace('subset="Train" ', '')))


@pytest.mark.parametrize(
    ('old', 'new', 'reason'),
    [
        ('points="2.00,3.00;12.00,3.00;', 'points="', 'polygons of fewer than 3 points'),
        ('points="2.00,', 'points="x,', 'coordinates are not numbers'),
        ('points="2.00,', 'points="1e99,', 'beyond every image'),
        ('rx="8.00"', '', 'beyond every image'),
        ('3, 53', '3, 54', 'do not fill their rectangle'),
        ('left="8"', 'left="25"', 'over the border'),
        ('rle="0,', 'rle="-1,', 'masks'),
        ('label="bird" source="semi', 'source="semi', 'without a label'),
    ],
)
def test_a_broken_shape_is_left_out(old, new, reason, tmp_path):
    assert old in EXPORT
    data = read(put(tmp_path, EXPORT.replace(old, new)))
    assert len(data.images[0].objects) == 6
    (error,) = data.left_out['objects']
    assert reason in error.reason


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match='export it again'):
        read(put(tmp_path, EXPORT[:900]))
    with pytest.raises(InputError, match="export the task as 'CVAT for images"):
        read(put(tmp_path, EXPORT.replace('<image id="1"', '<track id="1"').replace('  </image>\n</a', '</track></a')))
    broken = read(put(tmp_path, EXPORT.replace('width="30"', 'width="31"'))).left_out['images']
    assert '30x20 pixels, but its labels are of 31x20' in str(broken[0])
    put(tmp_path / 'labels', places=())
    with pytest.raises(InputError, match='give --images DIR'):
        read(tmp_path / 'labels')
    put(tmp_path / 'other', '', ('a.png',))
    assert len(read_cvat(tmp_path / 'labels', ReadOptions(image_folder=tmp_path / 'other')).images) == 1


def test_images_in_two_files_are_joined_or_one_file_is_skipped(tmp_path):
    second = put(tmp_path / 'in') / 'job_2.xml'
    # Jobs that overlap.
    second.write_text(EXPORT.replace('points="2.00,3.00', 'points="2.00,4.00'))

    def objects(merge=False, **options):
        conversion = LabelConversion([tmp_path / 'in'], ReadOptions(**options), merge=merge)
        conversion.read()
        return [len(image.objects) for image in conversion.images]

    with pytest.raises(InputError, match='annotations.xml.* and .*job_2.xml.* label .*a.png.*--skip FILE.*--merge'):
        objects()
    assert objects(skip=[second]) == [7, 0]
    assert objects(merge=True) == [8, 0]
    second.write_text(EXPORT)
    assert objects() == [7, 0]
    second.write_text(EXPORT.replace('name="b.png"', 'name="north/a.png"'))
    with pytest.raises(InputError, match='a.png.* is labelled twice in .*job_2.xml'):
        objects()
