"""Models by short names."""

import pytest

from mmdet_sag.checkpoints.zoo import find_config, find_zoo_config, zoo_configs
from mmdet_sag.errors import InputError


def test_every_instance_model_has_its_name_and_a_short_one():
    configs = zoo_configs()
    assert len(configs) > 35
    for name, path in configs.items():
        assert find_zoo_config(name) == find_zoo_config(f'{name}.py') == path
        short = name.split('_fpn_')[0]
        assert find_zoo_config(short).stem.split('_fpn_')[0] == short


def test_the_start_of_one_name_is_enough():
    assert find_zoo_config('centermask_r50').stem == 'centermask_r50-caffe_fpn_ms-3x_coco'


def test_the_longest_of_several_schedules_is_taken():
    assert find_zoo_config('centermask-first_v39').stem == 'centermask-first_v39_fpn_ms-3x_coco'


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        ('centermask-lite', 'may be centermask-lite_mv2, '),
        ('centermask-rtmdet', 'may be centermask-rtmdet-m, centermask-rtmdet-s, '),
        ('panoptic-centermask_v39', 'need stuff annotations'),
        ('centermask_v93', "did you mean 'centermask_v"),
        ('yolov8', 'not in the zoo'),
    ],
)
def test_other_names_are_one_line(model, message):
    with pytest.raises(InputError, match=message):
        find_zoo_config(model)


@pytest.mark.parametrize(
    'name',
    [
        'centermask-lite_demo',
        'centermask-lite_demo.py',
        'centermask_lite/centermask-lite_demo',
        'mmdet_sag::centermask_lite/centermask-lite_demo.py',
    ],
)
def test_configs_of_the_package_have_names(name):
    assert find_config(name).parts[-2:] == ('centermask_lite', 'centermask-lite_demo.py')


@pytest.mark.parametrize(
    'name, message',
    [
        ('configs/centermask_lite/centermask-lite_dem.py', "did you mean 'centermask-lite_demo'"),
        ('my.py', 'no config of the package has this name: check the path'),
        ('centermask-lite_small_fpn', "did you mean 'centermask-lite_small_fpn_coco'"),
    ],
)
def test_a_config_that_no_name_finds_is_an_error_in_one_line(name, message):
    with pytest.raises(InputError, match=f'config {name} does not exist, .*{message}') as error:
        find_config(name)
    assert '\n' not in str(error.value)
