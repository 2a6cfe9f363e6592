from collections.abc import Sequence
from typing import Any

from mmdet.registry import LOOPS
from mmengine.dist import get_rank
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from .pending_validation import note_validation, validate_before_training
from .seeded_data import build_seeded_dataloader, seed_generators, start_after

# In the checkpoint: how long epochs are, and at which epoch and iteration this began.
_EPOCHS = 'epochs_of_length'


@LOOPS.register_module()
class ReproducibleEpochBasedTrainLoop(EpochBasedTrainLoop):
    """Epoch-based training that a resumed run continues as if it had never stopped, also within an epoch.

    See :class:`ReproducibleIterBasedTrainLoop`. With another number of batches per epoch (another batch size, number of
    processes or data set) than when the checkpoint was saved, the number of epochs counts: the run goes on in the saved
    epoch, after the same share of it.

    Args:
        runner: The runner.
        dataloader: A data loader, or its config.
        *args: As in ``EpochBasedTrainLoop``.
        **kwargs: As in ``EpochBasedTrainLoop``.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> None:
        super().__init__(runner, build_seeded_dataloader(runner, dataloader), *args, **kwargs)

    def run(self) -> nn.Module:
        """Train.

        Returns:
            The trained model.
        """
        length = len(self.dataloader)
        runtime_info = self.runner.message_hub.runtime_info
        saved = runtime_info.get(_EPOCHS) or self._guess_epochs()
        # A checkpoint that counts iterations does not know that its epoch was over.
        self._epoch = saved['epoch'] + (self._iter - saved['iter']) // saved['length']
        skipped = (self._iter - saved['iter']) % saved['length']
        if saved['length'] == length:
            epochs = saved
        else:
            skipped = skipped * length // saved['length']
            epochs = dict(length=length, epoch=self._epoch, iter=self._iter - skipped)
            self.runner.logger.warning(
                f'An epoch has {length} iterations, and had {saved["length"]} when the checkpoint was saved: going on '
                f'after {self._epoch} epochs and {skipped} iterations of the next. A schedule that counts iterations '
                'goes on by these; scale the learning rate to the batch size (--auto-scale-lr).'
            )
        self.runner.message_hub.update_info(_EPOCHS, epochs)
        # Epochs may have had other lengths before.
        self._epoch_origin = epochs['iter']
        self._max_iters = epochs['iter'] + (self._max_epochs - epochs['epoch']) * length
        start_after(self.runner, self._iter, skipped)
        super()._decide_current_val_interval()
        if skipped == 0 and self._validation_is_due():
            validate_before_training(self.runner)
        return super().run()

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Train on one batch."""
        seed_generators(self.runner.seed, get_rank(), self._iter)
        # The loop counts from 0 also when it goes on in the middle of an epoch.
        super().run_iter((self._iter - self._epoch_origin) % len(self.dataloader), data_batch)

    def _guess_epochs(self) -> dict:
        """Length of the epochs of a checkpoint that does not tell, such as one of MMEngine's own loop."""
        length = len(self.dataloader)
        # MMEngine saves at the end of an epoch; where it counts iterations, that epoch is not counted yet.
        if self._iter and self._epoch not in (self._iter // length, (self._iter - 1) // length):
            if self._epoch == 0:
                return dict(length=self._iter + 1, epoch=0, iter=0)
            length = self._iter // self._epoch
        return dict(length=length, epoch=0, iter=0)

    def _decide_current_val_interval(self) -> None:
        # What comes next in MMEngine's loop is the validation.
        super()._decide_current_val_interval()
        if self._validation_is_due():
            note_validation(self.runner)

    def _validation_is_due(self) -> bool:
        return (
            self.runner.val_loop is not None
            and self._epoch > 0
            and self._epoch >= self.val_begin
            and (self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs)
        )
