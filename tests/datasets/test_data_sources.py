import pytest
from mmengine.config import Config

from mmdet_sag.datasets import data_sources
from mmdet_sag.errors import InputError


def test_a_tool_that_works_with_one_data_set_refuses_several():
    part = dict(type='CocoDataset')
    config = Config(dict(test_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=part))))
    assert data_sources.test_dataset(config) == part
    config.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[part, part])
    with pytest.raises(InputError, match=r'test_dataloader\.dataset joins several data sets'):
        data_sources.test_dataset(config)
