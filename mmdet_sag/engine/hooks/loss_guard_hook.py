import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import torch
from mmdet.registry import HOOKS
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import InputError
from ...models.model_config import unfreezing_options
from .atomic_checkpoint_hook import AtomicCheckpointHook, optim_wrappers


@HOOKS.register_module()
class LossGuardHook(Hook):
    """Stops training before a step that would make the weights NaN or infinite.

    Before each step of an optimizer, its gradients and the losses of all iterations since the last step are checked
    (several iterations with gradient accumulation). If a value is not finite, the state after the last step is saved as
    a checkpoint: weights, statistics of batch normalization and schedule. An average of the weights (EMA) includes the
    iterations since. The error names the losses with the image files of their iteration or, if all losses are finite,
    the parameters whose gradients are not.

    With loss scaling (mixed precision), the scaler skips steps whose gradients overflow. Only a series of such steps
    stops training. Their effect on the statistics is undone.

    A step costs one reduction of the gradients and one value that the host waits for.

    Args:
        patience: Number of consecutive steps that the loss scaler may skip.
    """

    # Before hooks that average the weights: first undo a skipped step.
    priority = 'HIGH'

    def __init__(self, patience: int = 20) -> None:
        self.patience = patience
        self._num_skipped = 0
        # Since the last step: the images of each iteration, and the iteration, names and values of the losses.
        self._images: list[list[str]] = []
        self._losses: list[tuple[int, list[str], Tensor]] = []
        self._stepped = True
        self._largest: dict[OptimWrapper, tuple[list[Tensor], Tensor | None]] = {}
        self._undo = contextlib.ExitStack()

    def before_train(self, runner: Runner) -> None:
        """Observe the model's losses and the optimizer's steps."""
        self._runner = runner
        self._checkpoint_hook = AtomicCheckpointHook.of(runner)
        self._undo.callback(runner.model.register_forward_hook(self._keep_losses).remove)
        if not optim_wrappers(self._runner):
            runner.logger.warning(f'LossGuardHook cannot observe the steps of {type(runner.optim_wrapper).__name__}.')
        for wrapper in optim_wrappers(self._runner):
            before_step = functools.partial(self._before_step, wrapper)
            self._undo.callback(wrapper.optimizer.register_step_pre_hook(before_step).remove)
            if wrapper.clip_grad_kwargs:
                # Clipping spreads a NaN over all gradients: look for its source before.
                self._undo.callback(setattr, wrapper, 'clip_func', wrapper.clip_func)
                wrapper.clip_func = functools.partial(self._clip, wrapper, wrapper.clip_func)

    def after_train(self, runner: Runner) -> None:
        """Stop observing."""
        self._undo.close()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Note the images, and after a step also the state that will change until the next one."""
        if self._stepped:
            self._images, self._losses, self._largest = [], [], {}
            self._note_state()
            self._stepped = False
        self._images.append(_image_paths(data_batch.get('data_samples', ())) if isinstance(data_batch, dict) else [])

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Count the steps that the loss scaler skipped, of which there may be ``patience`` in a row."""
        if self._stepped:
            self._num_skipped = 0
        elif any(_scales(wrapper) and wrapper.should_update() for wrapper in optim_wrappers(self._runner)):
            self._num_skipped += 1
            self._restore_statistics()
            if self._num_skipped >= self.patience:
                self._stop()
            self._stepped = True

    def knows_state(self) -> bool:
        """Return whether no optimizer has begun a step since the state was noted."""
        return not self._stepped and bool(optim_wrappers(self._runner))

    def restore_state(self) -> tuple[int, int]:
        """Restore the state after the last step, see :meth:`knows_state`, and return its epoch and iteration."""
        self._restore_statistics()
        for restore in self._restore:
            restore()
        return self._position

    def _note_state(self) -> None:
        """Note what a forward pass changes and, if several precede the step, what hooks change meanwhile."""
        runner = self._runner
        self._position = runner.epoch, runner.iter
        statistics = _statistics(module for module in runner.model.modules() if module.training)
        self._restore: list[Callable[[], Any]] = []
        if not all(wrapper.should_sync() for wrapper in optim_wrappers(self._runner)):
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    statistics += _statistics(hook.ema_model.modules())
            schedulers = runner.param_schedulers or []
            for scheduler in itertools.chain(*schedulers.values()) if isinstance(schedulers, dict) else schedulers:
                self._restore.append(functools.partial(scheduler.load_state_dict, scheduler.state_dict()))
            for group in itertools.chain(*(wrapper.param_groups for wrapper in optim_wrappers(self._runner))):
                values = {key: value for key, value in group.items() if key != 'params'}
                self._restore.append(functools.partial(group.update, values))
        self._before = [(buffer, buffer.clone()) for buffer in statistics]

    @torch.no_grad()
    def _restore_statistics(self) -> None:
        for buffer, before in self._before:
            buffer.copy_(before)

    def _keep_losses(self, model: nn.Module, args: tuple, outputs: object) -> None:
        # A validation between two steps may compute losses too.
        if isinstance(outputs, dict) and model.training and torch.is_grad_enabled():
            losses = {key: _total(value) for key, value in outputs.items() if 'loss' in key}
            if losses:
                self._losses.append((len(self._images) - 1, list(losses), torch.stack(list(losses.values()))))

    def _clip(self, wrapper: OptimWrapper, clip: Callable, parameters: list[Tensor], **kwargs: Any) -> Any:
        self._largest[wrapper] = _largest(parameters)
        return clip(parameters, **kwargs)

    def _before_step(self, wrapper: OptimWrapper, *args: object) -> None:
        if wrapper not in self._largest:
            self._largest[wrapper] = _largest(
                parameter for group in wrapper.optimizer.param_groups for parameter in group['params']
            )
        _, largest = self._largest[wrapper]
        values = [losses for _, _, losses in self._losses]
        if largest is not None:
            values.append(largest)
        if values:
            finite = torch.cat(values).isfinite().all().int()
            all_reduce(finite, 'min')
            if not finite:
                if not _scales(wrapper):
                    self._stop()
                return
        self._stepped = True

    def _stop(self) -> NoReturn:
        runner = self._runner
        # Nobody needs to save it again.
        self._stepped = True
        try:
            state = f'The state before it is saved in {self._checkpoint_hook.save_now(runner, *self.restore_state())}'
        except InputError as e:
            state = f'The state before it is not saved: {e}'
        causes, parameters, images = zip(
            *all_gather_object((self._bad_losses(), self._bad_gradients(), [name for i in self._images for name in i]))
        )
        if any(causes):
            what = 'the loss is not finite in iteration ' + '; '.join(
                f'{iteration}: {cause}' for iteration, cause in sorted(itertools.chain(*causes))
            )
        else:
            # Each process has the sum of all gradients.
            names = max(parameters, key=len)
            what = (
                f'the gradients are not finite in iteration {runner.iter + 1}, though the losses are: '
                f'{", ".join(names[:3])}{f" and {len(names) - 3} more" if len(names) > 3 else ""} '
                f'on {", ".join(itertools.chain(*images))}'
            )
        if self._num_skipped:
            what = f'the loss scaler skipped {self._num_skipped} steps in a row, {what}'
        if _has_untrained_norms(runner.model):
            options = unfreezing_options(runner.cfg.get('model') or {})
            raise InputError(
                f'{what}. {state}, but cannot go far: the batch norms that are frozen were never trained, so '
                'the weights around them are random. Name pretrained weights (load_from, or init_cfg of the '
                f'backbone), or train all of it from the beginning{" with --cfg-options " * bool(options)}{options}'
            )
        raise InputError(
            f'{what}. {state}: look at the annotations of these images, lower the learning rate or clip the gradients '
            '(optim_wrapper.clip_grad), then continue with --resume'
        )

    def _bad_losses(self) -> list[tuple[int, str]]:
        """Iterations since the last step with losses that are not finite, with these losses and the images."""
        return [
            (
                self._position[1] + i + 1,
                ', '.join(f'{key}={value:.4g}' for key, value in zip(names, losses.tolist()))
                + f' on {", ".join(self._images[i])}',
            )
            for i, names, losses in self._losses
            if not losses.isfinite().all()
        ]

    def _bad_gradients(self) -> list[str]:
        """Parameters whose gradients are not finite, the last layers first."""
        bad = {
            id(parameter)
            for parameters, largest in self._largest.values()
            for parameter, value in zip(parameters, largest.tolist() if largest is not None else ())
            if not math.isfinite(value)
        }
        return [name for name, parameter in self._runner.model.named_parameters() if id(parameter) in bad][::-1]


def _scales(wrapper: OptimWrapper) -> bool:
    return isinstance(wrapper, AmpOptimWrapper) and wrapper.loss_scaler.is_enabled()


def _total(loss: Tensor | Iterable[Tensor]) -> Tensor:
    parts = [loss] if isinstance(loss, Tensor) else loss
    return sum(part.detach().float().mean() for part in parts)


def _largest(parameters: Iterable[Tensor]) -> tuple[list[Tensor], Tensor | None]:
    """Parameters that have gradients, and the maximum norm of each gradient, which propagates NaN."""
    parameters = [parameter for parameter in parameters if parameter.grad is not None and parameter.grad.numel() > 0]
    if not parameters:
        return [], None
    gradients = [parameter.grad for parameter in parameters]
    # The squares in the Euclidean norm overflow before the gradient does.
    if gradients[0].is_cuda:
        values = torch._foreach_norm(gradients, math.inf)
    else:
        # On a CPU, _foreach_norm takes several times as long.
        values = [torch.maximum(-low, high) for low, high in (gradient.aminmax() for gradient in gradients)]
    return parameters, torch.stack([value.float() for value in values])


def _statistics(modules: Iterable[nn.Module]) -> list[Tensor]:
    return [buffer for module in modules if isinstance(module, _BatchNorm) for buffer in module.buffers()]


def _has_untrained_norms(model: nn.Module) -> bool:
    """Whether there are batch norms that keep their statistics, and all of these are as they were made."""
    frozen = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and not module.training and module.track_running_stats
    ]
    return bool(frozen) and all(map(_is_as_made, frozen))


def _is_as_made(norm: _BatchNorm) -> bool:
    if not bool((norm.running_mean == 0).all() & (norm.running_var == 1).all()):
        return False
    # Some pretrained weights have the statistics folded into weight and bias.
    if not norm.affine or norm.weight.requires_grad:
        return True
    return bool((norm.weight == norm.weight[0]).all() & (norm.bias == 0).all())


def _image_paths(data_samples: dict | Sequence) -> list[str]:
    """Paths of the images of a batch, or of the branches of semi-supervised training."""
    if isinstance(data_samples, dict):
        data_samples = itertools.chain(*data_samples.values())
    # A branch has None for the images of others, and two branches may have views of one image.
    paths = [str(sample.get('img_path')) for sample in data_samples if sample is not None]
    return list(dict.fromkeys(paths))
