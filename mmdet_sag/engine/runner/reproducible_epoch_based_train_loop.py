from collections.abc import Sequence

from mmdet.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop
from torch import nn

from .reproducible_train_loop import ReproducibleTrainLoop

# In the checkpoint: the length of an epoch, and the epoch and iteration from which on it holds.
_EPOCHS = 'epochs_of_length'


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
            if self._epoch == 0:
                return dict(length=self.iter + 1, epoch=0, iter=0)
            length = self.iter // self._epoch
        return dict(length=length, epoch=0, iter=0)
