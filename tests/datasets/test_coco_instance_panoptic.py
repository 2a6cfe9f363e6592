import json

import numpy as np
import pytest
from mmdet.registry import DATASETS
from support.tiny_panoptic import shapes_config, write_shapes

from mmdet_sag.datasets.coco_instance_panoptic import id_to_rgb, read_segment_ids, rgb_to_id
from mmdet_sag.errors import InputError


@pytest.fixture
def root(tmp_path):
    write_shapes(tmp_path / 'data', num_train=12, num_val=1)
    return tmp_path / 'data'


def edit(root, name, change):
    path = root / 'annotations' / f'{name}_train2017.json'
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def build(root, **options):
    return DATASETS.build({**shapes_config(root).train_dataloader.dataset, **options})


def test_samples_have_polygons_and_a_label_for_each_pixel(root):
    dataset = build(root)
    sample = dataset[0]['data_samples']
    info = dataset.get_data_info(0)
    assert len(sample.gt_instances) == sum(not instance['ignore_flag'] for instance in info['instances'])
    assert type(sample.gt_instances.masks).__name__ == 'PolygonMasks'
    target = sample.gt_sem_seg.sem_seg[0].numpy()
    if sample.get('flip'):
        axes = {'horizontal': 1, 'vertical': 0, 'diagonal': (0, 1)}[sample.flip_direction]
        target = np.flip(target, axes)
    ids = read_segment_ids(info['seg_map_path'])
    for segment in info['segments_info']:
        assert set(target[ids == segment['id']]) == {segment['category']}


def test_pixels_of_no_segment_are_ignored_and_crowds_are_things(root):
    def change(content):
        segments = content['annotations'][0]['segments_info']
        segments[:] = [dict(segment, iscrowd=1) for segment in segments if segment['category_id'] <= 6]

    edit(root, 'panoptic', change)
    target = build(root)[0]['data_samples'].gt_sem_seg.sem_seg.unique().tolist()
    assert target[-1] == 255
    assert 0 < len(target) - 1 <= 6
    assert max(target[:-1]) < 6


def test_an_image_without_any_segment_is_ignored_as_a_whole(root):
    edit(root, 'panoptic', lambda content: content['annotations'][0].update(segments_info=[]))
    assert build(root)[0]['data_samples'].gt_sem_seg.sem_seg.unique().tolist() == [255]


def test_an_image_without_an_object_that_is_no_crowd_is_left_out(root):
    def change(content):
        for annotation in content['annotations']:
            annotation['iscrowd'] |= annotation['image_id'] == 3

    edit(root, 'instances', change)
    kept = dict(filter_cfg=dict(filter_empty_gt=True, min_size=0))
    dataset = build(root, **kept)
    assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == [i for i in range(1, 13) if i != 3]
    assert len(build(root, **kept, test_mode=True)) == 12


def test_labels_follow_the_names_whatever_the_order_of_the_file(root):
    before = build(root)[0]['data_samples'].gt_sem_seg.sem_seg.unique().tolist()
    edit(root, 'panoptic', lambda content: content['categories'].reverse())
    assert build(root)[0]['data_samples'].gt_sem_seg.sem_seg.unique().tolist() == before


def test_an_image_that_the_panoptic_file_lacks_is_named(root):
    edit(root, 'panoptic', lambda content: content['annotations'].pop(4))
    with pytest.raises(InputError, match='no annotation of image 5'):
        build(root)


def test_a_category_that_is_not_listed_is_named(root):
    edit(root, 'panoptic', lambda content: content['annotations'][1]['segments_info'][0].update(category_id=77))
    with pytest.raises(InputError, match='of image 2 has category 77'):
        build(root)


def test_a_colour_is_a_number_of_three_digits():
    np.testing.assert_array_equal(
        id_to_rgb(np.array([[0, 255, 256, 8345037]]))[0], [[0] * 3, [255, 0, 0], [0, 1, 0], [205, 85, 127]]
    )


def test_ids_survive_the_way_through_colours():
    ids = np.random.default_rng(0).integers(0, 256**3, (20, 30))
    np.testing.assert_array_equal(rgb_to_id(id_to_rgb(ids)), ids)
