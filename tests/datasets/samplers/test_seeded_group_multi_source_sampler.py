import itertools

import numpy as np
import pytest
from mmdet.registry import DATA_SAMPLERS
from mmengine.dataset import ConcatDataset
from torch.utils.data import Dataset

from mmdet_sag.errors import InputError


class Shapes(Dataset):
    metainfo = {}
    ann_file = 'shapes.json'

    def __init__(self, wide: list) -> None:
        self.wide = wide

    def full_init(self) -> None:
        pass

    def __len__(self) -> int:
        return len(self.wide)

    def get_data_info(self, index: int) -> dict:
        return dict(width=20 if self.wide[index] else 5, height=10)


def sampler(labelled: list, unlabelled: list, **options):
    dataset = ConcatDataset.__new__(ConcatDataset)
    dataset.datasets = [Shapes(labelled), Shapes(unlabelled)]
    dataset.cumulative_sizes = [len(labelled), len(labelled) + len(unlabelled)]
    arguments = dict(batch_size=4, source_ratio=[1, 1], seed=3, **options)
    return DATA_SAMPLERS.build(dict(type='mmdet.SeededGroupMultiSourceSampler', dataset=dataset, **arguments))


def batches(made, count: int) -> np.ndarray:
    return np.array(list(itertools.islice(made, 4 * count))).reshape(count, 4)


def test_a_batch_has_both_sources_and_one_orientation():
    wide = [True, False, True, False, True]
    drawn = batches(sampler(wide, wide), 40)
    assert (drawn[:, :2] < 5).all()
    assert (drawn[:, 2:] >= 5).all()
    orientations = np.array(wide * 2)[drawn]
    assert (orientations == orientations[:, :1]).all()
    assert 5 < orientations[:, 0].sum() < 35


def test_batches_depend_on_the_seed_alone():
    wide = [True, False, True, False, True]
    np.random.seed(0)
    first = batches(sampler(wide, wide), 20)
    np.random.seed(1)
    assert (batches(sampler(wide, wide), 20) == first).all()


def test_an_orientation_that_one_source_lacks_does_not_hang():
    drawn = batches(sampler([True] * 3, [True, False, False]), 9)
    assert set(drawn.ravel().tolist()) == set(range(6))


def test_an_empty_source_is_named():
    with pytest.raises(InputError, match='shapes.json'):
        sampler([], [True])
