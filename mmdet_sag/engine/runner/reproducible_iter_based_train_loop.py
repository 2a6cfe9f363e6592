from collections.abc import Sequence
from typing import Any

from mmdet.registry import LOOPS
from mmengine.dist import get_rank
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch import nn
from torch.utils.data import DataLoader

from .pending_validation import note_validation, validate_before_training
from .seeded_data import build_seeded_dataloader, seed_generators, start_after


@LOOPS.register_module()
class ReproducibleIterBasedTrainLoop(IterBasedTrainLoop):
    """Iteration-based training that a resumed run continues as if it had never stopped.

    The generators are seeded anew for every sample and for every iteration, by the seed of the training and their
    place in it. So augmentation does not depend on the number of workers or on what was loaded before, and a resumed
    run skips the data that it has seen without loading it.

    Args:
        runner: The runner.
        dataloader: A data loader, or its config.
        *args: As in ``IterBasedTrainLoop``.
        **kwargs: As in ``IterBasedTrainLoop``.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> None:
        super().__init__(runner, build_seeded_dataloader(runner, dataloader), *args, **kwargs)

    def run(self) -> nn.Module:
        """Train.

        Returns:
            The trained model.
        """
        start_after(self.runner, self._iter)
        self.dataloader_iterator = _BatchIterator(self.dataloader, self._iter)
        super()._decide_current_val_interval()
        if self._validation_is_due():
            validate_before_training(self.runner)
        return super().run()

    def run_iter(self, data_batch: Sequence[dict]) -> None:
        """Train on one batch."""
        seed_generators(self.runner.seed, get_rank(), self._iter)
        super().run_iter(data_batch)

    def _decide_current_val_interval(self) -> None:
        # What comes next in MMEngine's loop is the validation.
        super()._decide_current_val_interval()
        if self._validation_is_due():
            note_validation(self.runner)

    def _validation_is_due(self) -> bool:
        return (
            self.runner.val_loop is not None
            and self._iter > 0
            and self._iter >= self.val_begin
            and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)
        )


class _BatchIterator(_InfiniteDataloaderIterator):
    """Begins where the data loader does, after as many empty steps as MMEngine's loop takes to get there."""

    def __init__(self, dataloader: DataLoader, num_skipped: int) -> None:
        self._dataloader = dataloader
        self._iterator = None
        self._num_skipped = num_skipped
        batch_sampler = dataloader.batch_sampler
        self._epoch = 0 if batch_sampler.is_infinite else num_skipped // len(batch_sampler)

    def __next__(self) -> Any:
        if self._num_skipped > 0:
            self._num_skipped -= 1
            return None
        if self._iterator is None:
            if hasattr(self._dataloader.batch_sampler.sampler, 'set_epoch'):
                self._dataloader.batch_sampler.sampler.set_epoch(self._epoch)
            self._iterator = iter(self._dataloader)
        return super().__next__()
