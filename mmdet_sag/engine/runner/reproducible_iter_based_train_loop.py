import itertools
from collections.abc import Iterator
from typing import Any

from mmdet.registry import LOOPS
from mmengine.runner import IterBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader

from .reproducible_train_loop import ReproducibleTrainLoop


@LOOPS.register_module()
class ReproducibleIterBasedTrainLoop(ReproducibleTrainLoop, IterBasedTrainLoop):
    """Iteration-based training that a resumed run continues as if it had never stopped.

    Arguments are those of ``IterBasedTrainLoop``.
    """

    def run(self) -> nn.Module:
        """Train, and return the trained model."""
        self.start()
        self.dataloader_iterator = _batches(self.dataloader, self.iter)
        return super().run()


def _batches(dataloader: DataLoader, num_skipped: int) -> Iterator[Any]:
    # MMEngine's loop takes one item for each finished iteration, which the data loader has skipped.
    yield from itertools.repeat(None, num_skipped)
    sampler = dataloader.batch_sampler
    for epoch in itertools.count(0 if sampler.is_infinite else num_skipped // len(sampler)):
        if hasattr(sampler.sampler, 'set_epoch'):
            sampler.sampler.set_epoch(epoch)
        yield from dataloader
