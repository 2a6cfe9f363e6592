import json

import pytest
from support.tiny_semi import semi_rectangles_config
from support.tiny_training import write_rectangles

from mmdet_sag.checks import check_inputs
from mmdet_sag.errors import InputError


def test_unlabelled_images_need_no_labels_and_labelled_ones_do(tmp_path):
    write_rectangles(tmp_path)
    content = json.loads((tmp_path / 'annotations.json').read_text())
    (tmp_path / 'none.json').write_text(json.dumps({**content, 'annotations': []}))
    config = semi_rectangles_config(tmp_path)
    labelled, unlabelled = config.train_dataloader.dataset.datasets
    unlabelled.ann_file = 'none.json'
    check_inputs(config, 'train')
    labelled.ann_file = 'none.json'
    with pytest.raises(InputError, match='data set is empty'):
        check_inputs(config, 'train')


def test_missing_unlabelled_images_are_named(tmp_path):
    write_rectangles(tmp_path)
    config = semi_rectangles_config(tmp_path)
    config.train_dataloader.dataset.datasets[1].data_prefix.img = 'elsewhere/'
    with pytest.raises(InputError, match='elsewhere'):
        check_inputs(config, 'train')
