"""An annotation file that the checks have parsed is not parsed again for the data set."""

import json

import pytest
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from mmdet_sag.checks import check_inputs, hand_over


@pytest.fixture
def parsed(monkeypatch):
    """Names of the files that were parsed."""
    names = []
    load = json.load

    def counted(file, *args, **kwargs):
        names.append(str(file.name))
        return load(file, *args, **kwargs)

    monkeypatch.setattr(json, 'load', counted)
    return names


def entries(config) -> list[dict]:
    dataset = DATASETS.build(config)
    return [dataset.get_data_info(index) for index in range(len(dataset))]


def test_checks_and_data_set_parse_the_file_once(data, parsed):
    data.write()
    contents = check_inputs(data.config, 'train')
    with hand_over(contents):
        handed = entries(data.train_set)
    assert parsed == [str(data.ann_file)]
    assert handed == entries(data.train_set)
    assert len(parsed) == 2


def test_the_first_data_set_takes_the_content_and_the_next_reads_for_itself(data, parsed):
    data.write()
    contents = check_inputs(data.config, 'train')
    with hand_over(contents):
        first = entries(data.train_set)
        assert not contents
        assert entries(data.train_set) == first
    assert len(parsed) == 2


def test_nothing_stays_behind_even_after_a_failure(data):
    data.write()
    contents = check_inputs(data.config, 'train')
    stock = CocoDataset.COCOAPI
    with pytest.raises(RuntimeError), hand_over(contents):
        raise RuntimeError
    assert not contents
    assert CocoDataset.COCOAPI is stock
