"""A hook that kills one process of a job."""

import os
import signal

import torch
from mmdet.registry import HOOKS
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from .tool import shorten_start

# Of the processes that torchrun starts, too.
shorten_start()


@HOOKS.register_module()
class KilledOnce(Hook):
    """Kills the process of a rank in an iteration, unless torchrun has started it again.

    Args:
        rank: The rank.
        iteration: Number of the iteration.
    """

    def __init__(self, rank: int, iteration: int) -> None:
        self.rank = rank
        self.iteration = iteration

    def before_run(self, runner) -> None:
        # More of them add up in another order, and a forked process has as many as its parent.
        torch.set_num_threads(1)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if (get_rank(), runner.iter + 1, os.environ.get('TORCHELASTIC_RESTART_COUNT')) == (
            self.rank,
            self.iteration,
            '0',
        ):
            os.kill(os.getpid(), signal.SIGKILL)
