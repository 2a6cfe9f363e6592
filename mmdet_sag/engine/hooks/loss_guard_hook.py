from collections.abc import Iterable
from typing import NoReturn, Optional

import torch
from mmdet.registry import HOOKS
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import InputError
from .whole_checkpoint_hook import WholeCheckpointHook


@HOOKS.register_module()
class LossGuardHook(Hook):
    """Stops training when the loss turns NaN or infinite, before the weights do.

    The loss is looked at before the optimizer's step. The state before the iteration is saved as a checkpoint, and the
    message names the losses and the image files of the batch.

    Under mixed precision with loss scaling, the scaler leaves out steps whose gradients overflow; that is part of its
    work, so only a series of such iterations stops training.

    Args:
        patience: Number of iterations in a row, left out by the loss scaler, whose loss is not finite.
    """

    def __init__(self, patience: int = 20) -> None:
        self.patience = patience
        self._losses = {}
        self._num_left_out = 0

    def before_train(self, runner: Runner) -> None:
        """Watch the model's losses and the optimizer's steps."""
        self._runner = runner
        self._checkpoint_hook = WholeCheckpointHook.of(runner)
        runner.model.register_forward_hook(self._keep_losses)
        wrapper = runner.optim_wrapper
        for optim_wrapper in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else (wrapper,):
            optim_wrapper.optimizer.register_step_pre_hook(self._before_step)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None) -> None:
        """Remember the batch and what a forward pass changes."""
        self._batch = data_batch
        self._statistics = [
            (buffer, buffer.clone())
            for module in runner.model.modules()
            if isinstance(module, _BatchNorm) and module.training
            for buffer in module.buffers()
        ]

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None, outputs: Optional[dict] = None
    ) -> None:
        """Count the steps that the loss scaler left out.

        Raises:
            InputError: There were too many in a row.
        """
        if isinstance(runner.optim_wrapper, AmpOptimWrapper):
            self._num_left_out = 0 if self._all_finite() else self._num_left_out + 1
            if self._num_left_out >= self.patience:
                self._stop()

    def _keep_losses(self, model: nn.Module, args: tuple, outputs: object) -> None:
        if isinstance(outputs, dict):
            self._losses = {key: _total(value) for key, value in outputs.items() if 'loss' in key}

    def _before_step(self, *args: object) -> None:
        if not self._all_finite():
            self._stop()

    def _all_finite(self) -> bool:
        """Whether the losses of all processes are finite."""
        finite = torch.stack(list(self._losses.values())).isfinite().all().int()
        all_reduce(finite, 'min')
        return bool(finite)

    def _stop(self) -> NoReturn:
        runner = self._runner
        with torch.no_grad():
            for buffer, before in self._statistics:
                buffer.copy_(before)
        path = self._checkpoint_hook.save_now(runner, runner.epoch, runner.iter)
        culprits = ''
        if not all(bool(value.isfinite()) for value in self._losses.values()):
            losses = ', '.join(f'{key}={value.item():.4g}' for key, value in self._losses.items())
            images = ', '.join(str(sample.get('img_path')) for sample in self._batch['data_samples'])
            culprits = f'{losses} on {images}'
        culprits = '; '.join(filter(None, all_gather_object(culprits)))
        raise InputError(
            f'the loss is not finite in iteration {runner.iter + 1}: {culprits}. The state before it is saved in '
            f'{path}: look at the annotations of these images, lower the learning rate or clip the gradients '
            '(optim_wrapper.clip_grad), then go on with --resume'
        )


def _total(loss: object) -> Tensor:
    parts: Iterable[Tensor] = [loss] if isinstance(loss, Tensor) else loss
    return sum(part.detach().float().mean() for part in parts)
