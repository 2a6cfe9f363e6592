from collections.abc import Sequence
from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from .seeded_data import build_seeded_dataloader, seed_generators

# In the checkpoint: the last iteration whose state was validated.
VALIDATED_AT = 'last_validated_iter'


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
