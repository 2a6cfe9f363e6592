"""Random trainings, each from a seed: loops, schedules, hooks, data sets, and the signals that interrupt them."""

import random
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from mmdet.registry import METRICS, MODELS, OPTIM_WRAPPERS
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper
from mmengine.optim.optimizer import amp_optimizer_wrapper
from torch import nn

from .tiny_training import rectangles_config

NUM_IMAGES = 6
SIGNALS = ('KILL', 'KILL', 'TERM', 'INT', 'HUP', 'USR1')
# Each with its arguments for a training of n steps.
SCHEDULES = dict(
    Constant=lambda n: dict(factor=0.5, end=max(2, n // 2)),
    CosineAnnealing=lambda n: dict(T_max=n, eta_min_ratio=0.1),
    CosineRestart=lambda n: dict(periods=[n - n // 2, n], restart_weights=[1, 0.5], eta_min_ratio=0.1),
    Exponential=lambda n: dict(gamma=0.9),
    Linear=lambda n: dict(start_factor=0.1, end=max(2, n // 2)),
    MultiStep=lambda n: dict(milestones=[max(1, n // 3), max(2, n // 2)], gamma=0.5),
    OneCycle=lambda n: dict(eta_max=0.02, total_steps=n),
    Poly=lambda n: dict(power=0.9, eta_min=1e-4, end=max(2, n)),
    ReduceOnPlateau=lambda n: dict(monitor='score', rule='greater', factor=0.5, patience=0),
    Step=lambda n: dict(step_size=max(1, n // 3), gamma=0.5),
)


@MODELS.register_module()
class SmallModel(BaseModel):
    """A model with what a checkpoint must restore or a seed must repeat: weights, running statistics and dropout."""

    def __init__(self, data_preprocessor: dict | None = None) -> None:
        super().__init__(data_preprocessor)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(8, 4)

    def forward(self, inputs: list, data_samples: list, mode: str = 'loss') -> dict | list:
        features = torch.stack([nn.functional.interpolate(image[None].float() / 255, 32)[0] for image in inputs])
        boxes = self.head(self.layers(features).mean((2, 3)))
        if mode == 'predict':
            for sample, box in zip(data_samples, boxes):
                sample.set_field(box.sum().item(), 'score', dtype=float)
            return data_samples
        targets = torch.stack([sample.gt_instances.bboxes.tensor.float().mean(0) / 64 for sample in data_samples])
        return dict(loss_box=(boxes - targets).square().mean(), loss_size=boxes.square().mean() * 0.01)


@METRICS.register_module()
class ChangingScore(BaseMetric):
    """A score that goes up and down with the weights."""

    def process(self, data_batch: dict, data_samples: list) -> None:
        self.results += [
            sample['score'] if 'score' in sample else sample['pred_instances']['scores'].sum().item()
            for sample in data_samples
        ]

    def compute_metrics(self, results: list) -> dict:
        return dict(score=sum(results) * 1000 % 1)


@OPTIM_WRAPPERS.register_module()
class MixedPrecisionOptimWrapper(AmpOptimWrapper):
    """MMEngine's mixed precision, which it refuses on a CPU, with PyTorch's loss scaler for CPUs."""

    def __init__(self, **options) -> None:
        with (
            mock.patch.object(amp_optimizer_wrapper, 'is_cuda_available', return_value=True),
            mock.patch.object(amp_optimizer_wrapper, 'GradScaler', partial(torch.amp.GradScaler, 'cpu')),
        ):
            super().__init__(**options)


class Combination:
    """A training and its interruptions.

    Args:
        seed: What everything is drawn from.
        data: Folder of :func:`write_rectangles` with :data:`NUM_IMAGES` images.

    Attributes:
        config: Content of the config file.
        features: What was drawn, in words.
        by_epoch: Whether the loop counts epochs.
    """

    def __init__(self, seed: int, data: Path) -> None:
        self._random = random.Random(seed)
        self.features: list[str] = []
        config = {
            key: value
            for key, value in rectangles_config(data).to_dict().items()
            if key.startswith(('train_', 'val_', 'default_', 'env_', 'log_', 'vis')) or key in ('model', 'randomness')
        }
        if self._chance(0.1, 'CenterMask'):
            config['val_evaluator'] = [config['val_evaluator'], dict(type='ChangingScore')]
        else:
            config['model'] = dict(type='SmallModel')
            config['val_evaluator'] = dict(type='ChangingScore')
            for hook in ('fast_training', 'class_count'):
                del config['default_hooks'][hook]
        self.config = dict(
            config,
            custom_imports=dict(imports=['mmdet_sag', 'support.training_combinations']),
            custom_hooks=[],
        )
        self.by_epoch = self._chance(0.5, 'epochs')
        self._draw_data()
        self._draw_length()
        self._draw_optimizer()
        self._draw_schedules()
        self._draw_checkpoints()

    def write(self, path: Path) -> None:
        """Write the config file."""
        path.write_text('\n'.join(f'{key} = {value!r}' for key, value in self.config.items()))

    def interruptions(self, before: int, total: int) -> list[str]:
        """Plans for ``signalled_train.py``, one for each time that the training is started.

        Args:
            before: Number of file operations before the first iteration has ended.
            total: Number of those of the whole run.
        """
        plans = []
        for number in range(self._random.randint(2, 4)):
            # A resumed run has less to do.
            last = total - 8 if number == 0 else before + (total - before) * 2 // 3
            moment = self._random.randint(before // 2 if self._random.random() < 0.1 else before, last)
            words = [self._signal(moment)]
            if self._random.random() < 0.2:
                # A scheduler that asks once more, or does not wait.
                words.append(self._signal(moment + self._random.randint(1, 6)))
            plans.append(','.join(words))
        return plans

    def _signal(self, moment: int) -> str:
        delay = self._random.choice((0, round(self._random.uniform(0, 0.03), 4)))
        return f'{self._random.choice(SIGNALS)}@{moment}' + f'+{delay}' * (delay > 0)

    def _chance(self, probability: float, *feature: str) -> bool:
        drawn = self._random.random() < probability
        if drawn:
            self.features += feature
        return drawn

    def _choice(self, name: str, *values):
        value = self._random.choice(values)
        self.features.append(f'{name}={value}')
        return value

    def _draw_data(self) -> None:
        loader = self.config['train_dataloader']
        dataset, length = loader['dataset'], NUM_IMAGES
        wrapper = self._choice('data', 'plain', 'Repeat', 'Concat', 'ClassBalanced')
        if wrapper == 'Repeat':
            dataset, length = dict(type='RepeatDataset', dataset=dataset, times=2), 2 * length
        elif wrapper == 'Concat':
            dataset, length = dict(type='ConcatDataset', datasets=[dataset, dict(dataset)]), 2 * length
        elif wrapper == 'ClassBalanced':
            # Each class is in every image: a threshold above 1 repeats all of them.
            dataset, length = dict(type='ClassBalancedDataset', dataset=dataset, oversample_thr=3.0), 2 * length
        loader.update(dataset=dataset, batch_size=self._choice('batch', 1, 2))
        workers = self._choice('workers', 0, 0, 1, 2)
        loader.update(num_workers=workers, persistent_workers=workers > 0 and self._chance(0.7, 'persistent'))
        sampler = 'DefaultSampler' if self.by_epoch else self._choice('sampler', 'InfiniteSampler', 'DefaultSampler')
        loader['sampler'] = dict(type=sampler, shuffle=True)
        if self._chance(0.3, 'no batch sampler'):
            loader['batch_sampler'] = None
        self._epoch_length = -(-length // loader['batch_size'])

    def _draw_length(self) -> None:
        validation = self._choice('validation', 'often', 'at the end', 'begins late')
        if self.by_epoch:
            epochs = 2 if self._epoch_length > 6 else 4
            self._iters, self._steps = epochs * self._epoch_length, epochs
            loop = dict(type='ReproducibleEpochBasedTrainLoop', max_epochs=epochs)
            interval, begin = 1, 2
        else:
            self._iters = self._steps = self._random.randint(8, 16)
            loop = dict(type='ReproducibleIterBasedTrainLoop', max_iters=self._iters)
            interval, begin = self._random.randint(2, 4), 5
        loop.update(dict(val_interval=1000 if validation == 'at the end' else interval))
        if validation == 'begins late':
            loop.update(val_begin=begin)
        self.config['train_cfg'] = loop
        self.config['log_processor'].update(by_epoch=self.by_epoch, window_size=self._choice('window', 1, 5, 50))

    def _draw_optimizer(self) -> None:
        optimizer = self._choice(
            'optimizer',
            dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4),
            dict(type='AdamW', lr=0.001, weight_decay=0.01),
        )
        wrapper = dict(type='OptimWrapper', optimizer=optimizer)
        if self._chance(0.25, 'AMP'):
            wrapper.update(type='MixedPrecisionOptimWrapper', dtype='bfloat16', loss_scale=dict(growth_interval=3))
        # The state within an accumulation is not saved: a checkpoint of an epoch needs complete ones.
        counts = [n for n in (1, 2, 3) if not self.by_epoch or self._epoch_length % n == 0]
        self._accumulation = self._choice('accumulation', 1, *counts)
        wrapper.update(accumulative_counts=self._accumulation)
        if self._chance(0.3, 'clipping'):
            wrapper.update(clip_grad=dict(max_norm=1.0))
        self.config['optim_wrapper'] = wrapper
        if self._chance(0.5, 'EMA'):
            average = self._choice('average', 'ExponentialMovingAverage', 'StochasticWeightAverage', 'ExpMomentumEMA')
            hook = dict(type='EMAHook', ema_type=average, update_buffers=self._chance(0.5, 'buffers'))
            if self._chance(0.3, 'EMA begins late'):
                hook.update(dict(begin_epoch=1) if self.by_epoch else dict(begin_iter=4))
            self.config['custom_hooks'] = [hook]

    def _draw_schedules(self) -> None:
        schedules = []
        for _ in range(self._random.randint(1, 2)):
            schedules.append(self._schedule('LR', *SCHEDULES))
        if self._chance(0.3):
            schedules.append(self._schedule('Momentum', *[kind for kind in SCHEDULES if kind != 'OneCycle']))
        self.config['param_scheduler'] = schedules

    def _schedule(self, parameter: str, *kinds: str) -> dict:
        kind = self._random.choice(kinds)
        by_epoch = kind == 'ReduceOnPlateau' or (self.by_epoch and self._random.random() < 0.6)
        steps = self._steps if by_epoch else self._iters
        schedule = dict(type=f'{kind}{parameter}', by_epoch=by_epoch, **SCHEDULES[kind](steps))
        if by_epoch and kind != 'ReduceOnPlateau' and self._random.random() < 0.3:
            schedule.update(convert_to_iter_based=True)
        self.features.append(f'{kind}{parameter}{" by epoch" * by_epoch}')
        return schedule

    def _draw_checkpoints(self) -> None:
        hook = self.config['default_hooks']['checkpoint']
        if self.by_epoch and self._chance(0.6, 'checkpoints by epoch'):
            hook.update(by_epoch=True, interval=self._choice('interval', 1, 1, 2))
        else:
            hook.update(by_epoch=False, interval=self._accumulation * self._random.randint(1, 2))
            self.features.append(f'interval={hook["interval"]}')
        hook.update(max_keep_ckpts=self._choice('keep', -1, 1, 1, 2, 3))
        if self._chance(0.6, 'save_best'):
            hook.update(save_best='score', rule='greater')
        else:
            hook.update(save_best=None)
        self.config['default_hooks']['logger'] = dict(type='LoggerHook', interval=1, log_metric_by_epoch=self.by_epoch)
        self.config['default_hooks']['preemption'] = dict(type='PreemptionHook')
