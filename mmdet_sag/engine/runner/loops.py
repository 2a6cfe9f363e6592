import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from mmdet.registry import LOOPS
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from .seeded_data import build_seeded_dataloader, seed_generators

# In the checkpoint: the last iteration whose state was validated.
VALIDATED_AT = 'last_validated_iter'
# In the checkpoint: the length of an epoch, and the epoch and iteration from which on it holds.
_EPOCHS = 'epochs_of_length'


class ReproducibleTrainLoop:
    """Mix-in for a train loop that a resumed run continues as if it had never stopped.

    The random generators are seeded for every sample and every iteration, by the seed of the training and their
    position in it. So augmentation depends neither on the number of workers nor on what was loaded before, and a
    resumed run skips the data that it has seen without loading it.

    A checkpoint is written before the validation of its iteration. If the run stopped in between, a resumed run starts
    with that validation. A run that stopped later repeats it.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> None:
        cached = [name for name in ('CachedMosaic', 'CachedMixUp') if name in str(dataloader)]
        if cached:
            runner.logger.warning(
                f'{" and ".join(cached)} mix images that a worker has loaded before: a resumed run will differ from '
                'one that never stopped. Mosaic and MixUp in a MultiImageMixDataset do not have this limit.'
            )
        super().__init__(runner, build_seeded_dataloader(runner, dataloader), *args, **kwargs)

    def start(self, num_skipped: int | None = None) -> None:
        """Prepare the first iteration.

        ``num_skipped`` batches of the current pass over the data are skipped; None: as many as the finished iterations
        say.
        """
        runner = self.runner
        # With a seed per process, MMEngine draws a new seed for the order of the data, and does not keep it.
        sampler_seed = None if runner._randomness_cfg.get('diff_rank_seed', False) else runner.seed
        self.dataloader.batch_sampler.start_at(self.iter, runner.seed, sampler_seed, num_skipped)
        super()._decide_current_val_interval()
        validated = runner.message_hub.runtime_info.get(VALIDATED_AT) == self.iter
        if not num_skipped and self._validation_is_due() and not validated:
            # After all other hooks are ready.
            runner.register_hook(_ValidateFirst(), priority='LOWEST')

    def run_iter(self, *args: int | Sequence[dict]) -> None:
        """Train on one batch."""
        seed_generators(self.runner.seed, get_rank(), self.iter)
        super().run_iter(*args)

    def _decide_current_val_interval(self) -> None:
        # MMEngine's loop validates right after this.
        super()._decide_current_val_interval()
        if self._validation_is_due():
            self.runner.message_hub.update_info(VALIDATED_AT, self.iter)

    def _validation_is_due(self) -> bool:
        if isinstance(self, EpochBasedTrainLoop):
            done, end = self.epoch, self.max_epochs
        else:
            done, end = self.iter, self.max_iters
        due = done % self.val_interval == 0 or done == end
        return self.runner.val_loop is not None and done > 0 and done >= self.val_begin and due


class _ValidateFirst(Hook):
    def before_train(self, runner: Runner) -> None:
        runner.logger.info(f'The validation after iteration {runner.iter} was due when the run stopped: it runs first.')
        runner.message_hub.update_info(VALIDATED_AT, runner.iter)
        runner.val_loop.run()


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


@LOOPS.register_module()
class ReproducibleEpochBasedTrainLoop(ReproducibleTrainLoop, EpochBasedTrainLoop):
    """Epoch-based training that a resumed run continues as if it had never stopped, also within an epoch.

    If the number of batches per epoch has changed since the checkpoint was saved (another batch size, number of
    processes or data set), the epochs count: the run continues in the saved epoch, at the same fraction of it.
    Arguments are those of ``EpochBasedTrainLoop``.
    """

    def run(self) -> nn.Module:
        """Train, and return the trained model."""
        length = len(self.dataloader)
        hub = self.runner.message_hub
        epochs = hub.runtime_info.get(_EPOCHS) or self._guess_epochs()
        # A checkpoint that counts iterations does not know whether its epoch was complete.
        finished, skipped = divmod(self.iter - epochs['iter'], epochs['length'])
        self._epoch = epochs['epoch'] + finished
        if epochs['length'] != length:
            skipped = skipped * length // epochs['length']
            self.runner.logger.warning(
                f'An epoch has {length} iterations, and had {epochs["length"]} when the checkpoint was saved: training '
                f'continues after {self._epoch} epochs and {skipped} iterations of the next. A schedule that counts '
                'iterations continues by these; scale the learning rate to the batch size (--auto-scale-lr).'
            )
            epochs = dict(length=length, epoch=self._epoch, iter=self.iter - skipped)
        hub.update_info(_EPOCHS, epochs)
        # Earlier epochs may have had other lengths.
        self._epoch_origin = epochs['iter']
        self._max_iters = epochs['iter'] + (self.max_epochs - epochs['epoch']) * length
        optim_wrapper = self.runner.optim_wrapper
        if isinstance(optim_wrapper, OptimWrapper) and self._max_iters != self.max_epochs * length:
            # It was told another end, at which an incomplete gradient accumulation is used.
            optim_wrapper.initialize_count_status(self.runner.model, self.iter, self._max_iters)
        self.start(skipped)
        return super().run()

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Train on one batch."""
        # MMEngine's loop counts from 0 also if it resumes within an epoch.
        super().run_iter((self.iter - self._epoch_origin) % len(self.dataloader), data_batch)

    def _guess_epochs(self) -> dict:
        """Length of the epochs of a checkpoint that does not record it, such as one of MMEngine's own loop."""
        length = len(self.dataloader)
        # MMEngine saves at the end of an epoch. If it counts iterations, that epoch is not counted yet.
        if self.iter and self._epoch not in (self.iter // length, (self.iter - 1) // length):
            length = self.iter // self._epoch if self._epoch else self.iter + 1
        return dict(length=length, epoch=0, iter=0)
