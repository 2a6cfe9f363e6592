from collections.abc import Iterator, Sequence

import numpy as np
from mmdet.datasets.samplers import GroupMultiSourceSampler
from mmdet.registry import DATA_SAMPLERS
from mmengine.dataset import ConcatDataset

from ...errors import InputError


@DATA_SAMPLERS.register_module()
class SeededGroupMultiSourceSampler(GroupMultiSourceSampler):
    """Sampler of labelled and unlabelled images, in this order, with batches that depend only on its seed.

    MMDetection's ``GroupMultiSourceSampler`` draws the orientation of a batch from NumPy's global generator, so a
    resumed run sees other batches. It also hangs if one of its data sets lacks an orientation; this class then ignores
    orientations. Arguments are the same; each data set must have images, and each batch some of both.
    """

    def __init__(self, dataset: ConcatDataset, batch_size: int, source_ratio: Sequence[float], **kwargs) -> None:
        for part in dataset.datasets:
            if len(part) == 0:
                raise InputError(f"data set is empty: '{part.ann_file}' has no image that its filter keeps")
        super().__init__(dataset, batch_size, list(source_ratio), **kwargs)
        if min(self.num_per_source) < 1:
            raise InputError(
                f'a batch of {batch_size} with source_ratio={list(source_ratio)} has {self.num_per_source} images of '
                'the data sets: increase train_dataloader.batch_size and its sampler.batch_size to the same value'
            )

    def _get_source_group_info(self) -> None:
        super()._get_source_group_info()
        if any(size == 0 for sizes in self.group2size_per_source for size in sizes.values()):
            for sizes, indices in zip(self.group2size_per_source, self.group2inds_per_source):
                indices[1] = sorted(indices[0] + indices[1])
                sizes[1] = len(indices[1])
            self.group_ratio = np.array([0.0, 1.0])

    def __iter__(self) -> Iterator[int]:
        # The same orientation on all processes, which wait for each other's largest images.
        generator = np.random.default_rng(self.seed)
        while True:
            group = generator.choice(len(self.group_ratio), p=self.group_ratio)
            for source, num in enumerate(self.num_per_source):
                members = self.group2inds_per_source[source][group]
                order = self.group_source2inds[group][source]
                for _ in range(num):
                    yield members[next(order)] + self.cumulative_sizes[source]
