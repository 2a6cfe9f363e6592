import copy

import torch
from mmdet.models.detectors import SemiBaseDetector
from mmdet.registry import HOOKS
from mmengine.config import Config
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import InputError
from ...models.model_config import config_parts, type_name


@HOOKS.register_module()
class ValidationLossHook(Hook):
    """Computes the losses of training on the validation images, at each validation, of any detector of MMDetection.

    They are logged as ``val_loss`` and, for each loss, such as ``val_loss_mask``, means over images, and are among the
    metrics, so that ``save_best='val_loss', rule='less'`` and ``EarlyStoppingHook(monitor='val_loss', rule='less')``
    work. Images are resized as in testing, by the pipeline that the validation data set must have, and annotations
    loaded as in training. Norms and dropouts are in evaluation mode, and neither weights, statistics nor the training's
    random numbers move. EMA's weights are used if there are any, and of a semi-supervised detector the teacher.
    """

    # After EMAHook, which puts its weights in before an epoch.
    priority = 'BELOW_NORMAL'

    def __init__(self) -> None:
        self.dataloader = None
        self.losses: dict[str, float] = {}

    def before_val_epoch(self, runner: Runner) -> None:
        """Compute the losses, before MMEngine puts the model into evaluation mode."""
        if self.dataloader is None:
            self.dataloader = runner.build_dataloader(_with_targets(runner.cfg))
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        preprocessor = model.data_preprocessor
        if isinstance(model, SemiBaseDetector):
            model, preprocessor = model.teacher, preprocessor.data_preprocessor
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        _set_modes(model)
        augments, preprocessor.batch_augments = getattr(preprocessor, 'batch_augments', None), None
        sums: dict[str, float] = {}
        count = 0
        # The same samples of the RoIs at each validation.
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            for data in self.dataloader:
                batch = preprocessor(data, True)
                _, losses = model.parse_losses(model(**batch, mode='loss'))
                num_images = len(batch['data_samples'])
                count += num_images
                for name, loss in losses.items():
                    sums[name] = sums.get(name, 0.0) + float(loss) * num_images
        preprocessor.batch_augments = augments
        for buffer, value in buffers:
            buffer.copy_(value)
        totals = torch.tensor([count, *sums.values()], dtype=torch.float64, device=next(model.parameters()).device)
        all_reduce(totals)
        self.losses = {f'val_{name}': float(total / totals[0]) for name, total in zip(sums, totals[1:])}
        for name, loss in self.losses.items():
            runner.message_hub.update_scalar(f'val/{name}', loss)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Add the losses to the metrics, for hooks that monitor one."""
        metrics.update(self.losses)


def _set_modes(model: nn.Module) -> None:
    """Set training mode, which heads need to compute losses, and evaluation mode for layers: norms, dropouts."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm) or next(module.children(), None) is None:
            module.training = False


def _with_targets(cfg: Config) -> dict:
    """The validation loader with annotations loaded as in training, before the images are resized."""
    loader = copy.deepcopy(cfg.val_dataloader.to_dict())
    pipeline = loader['dataset'].get('pipeline')
    if not pipeline:
        raise InputError(
            'ValidationLossHook needs val_dataloader.dataset.pipeline: give the validation data set one, or remove the '
            'hook from custom_hooks'
        )
    loading = [part for _, _, part in config_parts(cfg.train_dataloader, 'train_dataloader') if _loads_targets(part)]
    steps = [step for step in pipeline if not _loads_targets(step)]
    image = next(i for i, step in enumerate(steps) if type_name(step).startswith('LoadImage'))
    steps.insert(image + 1, dict(loading[0]))
    loader['dataset']['pipeline'] = steps
    return loader


def _loads_targets(step: dict) -> bool:
    name = type_name(step)
    return name.startswith('Load') and name.endswith('Annotations')
