"""Which images validate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdet_sag.datasets.converters.image_header import ImageHeader
from mmdet_sag.datasets.converters.labelled_image import LabelledImage
from mmdet_sag.datasets.converters.splitting import split_images
from mmdet_sag.errors import InputError


def split(names, *args, **options):
    images = [LabelledImage(name, name, ImageHeader((1, 1))) for name in names]
    split_images(images, *args, **options)
    return {image.name: image.split for image in images}


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 5))
def test_both_parts_have_images_and_the_share_is_met_to_one(count, share, seed):
    found = split([f'{i}.jpg' for i in range(count)], share, seed)
    num_val = list(found.values()).count('val')
    assert 1 <= num_val <= count - 1
    assert abs(num_val - min(max(share * count, 1), count - 1)) <= 1


def test_the_order_of_files_changes_nothing_and_another_seed_does():
    names = [f'{i}.jpg' for i in range(40)]
    assert split(names, 0.25) == split(names[::-1], 0.25)
    assert split(names, 0.25, 1) != split(names, 0.25, 2)


def test_more_images_move_few_of_the_others():
    names = [f'{i}.jpg' for i in range(100)]
    before, after = split(names[:95], 0.2), split(names, 0.2)
    assert sum(before[name] != after[name] for name in before) <= 5


def test_images_of_a_group_stay_together():
    names = [f'mast{i % 7}/{i}.jpg' for i in range(70)]
    found = split(names, 0.3, group_by='^[^/]+')
    groups = {name.split('/')[0]: set() for name in names}
    for name, part in found.items():
        groups[name.split('/')[0]].add(part)
    assert all(len(parts) == 1 for parts in groups.values())
    assert list(found.values()).count('val') == 20


def test_one_group_cannot_be_divided():
    with pytest.raises(InputError, match='1 group to split'):
        split(['a/1.jpg', 'a/2.jpg'], 0.5, group_by='^[^/]+')
