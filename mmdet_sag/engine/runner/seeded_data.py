"""Batches whose content depends only on the seed and on their position in the training."""

import functools
import itertools
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from mmdet.datasets.samplers import MultiSourceSampler
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Sampler


def seed_generators(*numbers: int) -> None:
    """Seed the random generators of Python, NumPy and PyTorch with a tuple of non-negative integers."""
    words = np.random.SeedSequence(numbers).generate_state(3).tolist()
    random.seed(words[0])
    np.random.seed(words[1])
    torch.manual_seed(words[2])


class SeededDataset:
    """Wraps a data set, whose attributes it shares, to seed the random generators before a sample is loaded."""

    def __init__(self, dataset: Any) -> None:
        self.__dict__['dataset'] = dataset

    def __getitem__(self, item: int | tuple[int, tuple[int, ...]]) -> Any:
        """Load a sample: ``item`` is an index, or an index and the numbers of the seed."""
        if isinstance(item, tuple):
            item, numbers = item
            seed_generators(*numbers)
        return self.dataset[item]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # Unpickling reads special names before the data set is there.
        if name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.dataset, name, value)


class SeededBatchSampler(Sampler):
    """Adds a seed to every sample of a batch, and can start at any batch of the training without loading the others.

    Until :meth:`start_at` it is empty, so that nothing is drawn before the position in the training is known.
    """

    def __init__(self, batch_sampler: Sampler) -> None:
        self.batch_sampler = batch_sampler
        self._position = None

    @property
    def sampler(self) -> Sampler:
        """The sampler of indices."""
        return self.batch_sampler.sampler

    @property
    def batch_size(self) -> int:
        """Number of samples of a full batch."""
        return self.batch_sampler.batch_size

    @property
    def is_infinite(self) -> bool:
        """Whether one pass over the data never ends."""
        return isinstance(self.sampler, (InfiniteSampler, MultiSourceSampler))

    def start_at(self, position: int, seed: int, sampler_seed: int | None, num_skipped: int | None = None) -> None:
        """Begin after ``position`` batches of the training, by its seed, which loading a checkpoint may have changed.

        ``sampler_seed`` is that of the order of the data, None if it stays. ``num_skipped`` batches come before in its
        pass; None: all passes had the length of this one.
        """
        self.seed = seed
        self._position = position
        if num_skipped is None:
            num_skipped = position if self.is_infinite else position % len(self)
        self._num_skipped = num_skipped
        if sampler_seed is not None and hasattr(self.sampler, 'seed'):
            self.sampler.seed = sampler_seed

    def __iter__(self) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
        if self._position is None:
            return
        num_skipped, self._num_skipped = self._num_skipped, 0
        for batch in itertools.islice(self.batch_sampler, num_skipped, None):
            position, self._position = self._position, self._position + 1
            yield [(index, (self.seed, get_rank(), position, slot)) for slot, index in enumerate(batch)]

    def __len__(self) -> int:
        return len(self.batch_sampler)


def build_seeded_dataloader(runner: Runner, dataloader: DataLoader | dict) -> DataLoader:
    """Build a data loader of seeded batches from a data loader or its config."""
    if isinstance(dataloader, dict):
        diff_rank_seed = runner._randomness_cfg.get('diff_rank_seed', False)
        dataloader = runner.build_dataloader(dataloader, seed=runner.seed, diff_rank_seed=diff_rank_seed)
    same = ('num_workers', 'collate_fn', 'pin_memory', 'timeout', 'multiprocessing_context', 'generator')
    same += ('prefetch_factor', 'persistent_workers')
    return DataLoader(
        SeededDataset(dataloader.dataset),
        batch_sampler=SeededBatchSampler(dataloader.batch_sampler),
        worker_init_fn=functools.partial(_init_worker, dataloader.worker_init_fn),
        **{name: getattr(dataloader, name) for name in same},
    )


def _init_worker(worker_init_fn: Callable[[int], None] | None, worker_id: int) -> None:
    # A terminal sends Ctrl-C to all its processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # macOS has no sigtimedwait: a worker stops there at the first signal.
    if hasattr(signal, 'sigtimedwait'):
        signals = {signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        threading.Thread(target=_obey_parent, args=(signals, os.getppid()), daemon=True).start()
    if worker_init_fn is not None:
        worker_init_fn(worker_id)


def _obey_parent(signals: set[signal.Signals], parent: int) -> None:
    # A scheduler signals all processes of a job, but the training needs its workers until it has stopped by itself.
    # Of a killed training, a worker ends too. PyTorch's own watch then waits for ever if a batch is on its way.
    while os.getppid() == parent:
        received = signal.sigtimedwait(signals, 5)
        if received and received.si_pid == parent:
            break
    os._exit(0)
