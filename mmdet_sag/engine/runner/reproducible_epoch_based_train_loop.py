from collections.abc import Sequence
from typing import Any, Union

from mmdet.registry import LOOPS
from mmengine.dist import get_rank
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from .seeded_data import build_seeded_dataloader, seed_generators, start_after


@LOOPS.register_module()
class ReproducibleEpochBasedTrainLoop(EpochBasedTrainLoop):
    """Epoch-based training that a resumed run continues as if it had never stopped, also within an epoch.

    See :class:`ReproducibleIterBasedTrainLoop`.

    Args:
        runner: The runner.
        dataloader: A data loader, or its config.
        *args: As in ``EpochBasedTrainLoop``.
        **kwargs: As in ``EpochBasedTrainLoop``.
    """

    def __init__(self, runner: Runner, dataloader: Union[DataLoader, dict], *args: Any, **kwargs: Any) -> None:
        super().__init__(runner, build_seeded_dataloader(runner, dataloader), *args, **kwargs)

    def run(self) -> nn.Module:
        """Train.

        Returns:
            The trained model.
        """
        # A checkpoint that counts iterations does not know that its epoch was over.
        self._epoch = self._iter // len(self.dataloader)
        start_after(self.runner, self._iter)
        return super().run()

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Train on one batch."""
        seed_generators(self.runner.seed, get_rank(), self._iter)
        # The loop counts from 0 also when it goes on in the middle of an epoch.
        super().run_iter(self._iter % len(self.dataloader), data_batch)
