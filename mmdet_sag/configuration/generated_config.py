import os
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.utils import digit_version

from ..checkpoints.zoo import config_root
from ..datasets.config_checks.model_checks import model_parts
from ..errors import InputError
from .choice import Choice
from .code import Code, written
from .data_statistics import DataStatistics
from .starting_weights import find_weights

_COCO_CLASSES = 80
# Images smaller than this are enlarged: the finest features of these models have a stride of 8 pixels.
_LEAST_SIDE = 320
# Objects of fewer pixels across are lost at a stride of 8.
_SMALL_OBJECT = 24
# Epochs at up to so many images, and at many.
_FEW_IMAGES, _MOST_EPOCHS, _LEAST_EPOCHS = 100, 150, 24
# From random weights: the rate that the demo's kind of training takes at this batch, after AdamW's habit.
_RANDOM_LR, _RANDOM_BATCH = 5e-4, 4
# Where the zoo lowers its rate: 210,000 and 250,000 of 270,000 iterations.
_MILESTONES = 7 / 9, 25 / 27


class GeneratedConfig:
    """A short config for data of one's own, which inherits one of the zoo and states what the data ask for.

    Args:
        statistics: What there is to learn.
        base: Config of the zoo.
        load_from: Checkpoint of a detector to start from.
        weights: As for :func:`find_weights`.
        batch_size: Images of a step on each process.
        num_processes: Processes that will train.
        epochs: How often each image is seen; None: by their number.
        short_side: Shorter side of the images in pixels; None: by their sizes.

    Attributes:
        choices: What was chosen, and why.

    Raises:
        InputError: A number is out of range, or a checkpoint cannot be used.
    """

    def __init__(
        self,
        statistics: DataStatistics,
        base: Path,
        load_from: str | None = None,
        weights: str = 'auto',
        batch_size: int | None = None,
        num_processes: int = 1,
        epochs: int | None = None,
        short_side: int | None = None,
    ) -> None:
        numbers = (('--batch-size', batch_size, 1), ('--gpus', num_processes, 1), ('--epochs', epochs, 1))
        for option, value, least in (*numbers, ('--short-side', short_side, 64)):
            if value is not None and value < least:
                raise InputError(f'{option} is {value}: give at least {least}')
        self.statistics = statistics
        self.base = base
        self.zoo = Config.fromfile(base)
        self.num_processes = num_processes
        self.choices: list[Choice] = []
        self._note('model', base.stem, f'{len(statistics.classes)} classes: {", ".join(statistics.classes[:8])}')
        self.weights = find_weights(self.zoo, load_from, weights)
        self._note('start', self._start(), self.weights.why)
        self.batch_size = self._choose_batch_size(batch_size)
        self.short_side, self.long_side = self._choose_size(short_side)
        self.epochs, self.steps_of_epoch = self._choose_schedule(epochs)
        self.optim_wrapper = self._choose_optimizer()
        self._note_data()

    def text(self, path: Path) -> str:
        """Source of the config.

        Args:
            path: Where it will lie, which the place of the inherited config depends on.
        """
        parts = [
            f'_base_ = {self._base_from(path)!r}',
            self._data(),
            written_assignments(model=self._model()),
            self._pipelines(),
            self._loaders(),
            self._schedule(),
        ]
        return '\n\n'.join(parts) + '\n'

    @property
    def max_iters(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.steps_of_epoch

    def _note(self, what: str, value: object, why: str) -> None:
        self.choices.append(Choice(what, str(value), why))

    def _start(self) -> str:
        return dict(
            checkpoint=str(self.weights.path), imagenet='ImageNet weights of the backbone', random='random weights'
        )[self.weights.kind]

    def _choose_batch_size(self, given: int | None) -> int:
        if given is not None:
            self._note('batch size', given, 'given')
            return given
        chosen = min(4, self.statistics.num_images)
        self._note('batch size', chosen, 'usual for a GPU; --batch-size changes it, and the learning rate with it')
        return chosen

    def _choose_size(self, given: int | None) -> tuple[int, int]:
        """Shorter side, and bound of the longer one."""
        zoo_long, zoo_short = _test_scale(self.zoo)
        short_sides, long_sides = np.sort(self.statistics.sizes, axis=1).T
        median = float(np.median(short_sides))
        if given is not None:
            short, why = given, 'given'
        elif median >= zoo_short:
            short, why = zoo_short, f"the zoo's; half of the images have {median:g} pixels or more"
        else:
            short = int(max(_LEAST_SIDE, -(-median // 32) * 32))
            short = min(short, zoo_short)
            why = f'half of the images have {median:g} pixels or more, and enlarging them adds nothing'
            if short > median and short == _LEAST_SIDE:
                why = f'images of {median:g} pixels are too small for features of stride 8'
        aspect = min(3.0, max(zoo_long / zoo_short, float(np.percentile(long_sides / short_sides, 95))))
        long = round(short * aspect)
        self._note('image size', f'shorter side {short}, longer up to {long}', why)
        for name, size in self.statistics.object_sizes.items():
            across = size * short / median
            if across < _SMALL_OBJECT:
                why = f'half of them are below {across:.0f} pixels across at this size: try a larger --short-side'
                self._note('note', f"class '{name}' has small objects", why)
        return short, long

    def _choose_schedule(self, given: int | None) -> tuple[int, int]:
        """Epochs, and steps of one."""
        images = self.statistics.num_images
        steps = max(1, round(images / (self.batch_size * self.num_processes)))
        if given is not None:
            epochs, why = given, 'given'
        else:
            epochs = _MOST_EPOCHS * min(1.0, (_FEW_IMAGES / images) ** 0.4)
            epochs = max(_LEAST_EPOCHS, round(epochs))
            why = f'{images} images with objects: {_MOST_EPOCHS} epochs up to {_FEW_IMAGES}, falling to {_LEAST_EPOCHS}'
            if self.weights.kind == 'random':
                epochs *= 2
                why += '; twice that from random weights'
        self._note('schedule', f'{epochs} epochs of {steps} steps', why)
        return epochs, steps

    def _note_data(self) -> None:
        data = self.statistics
        if data.num_empty:
            why = 'train_dataloader.dataset.filter_cfg.filter_empty_gt=False uses them as background'
            self._note('note', f'{data.num_empty} images without objects are not learnt', why)
        if data.has_rle:
            self._note('masks', 'bitmaps', 'some are RLE, which a pipeline of polygons would lose')
        for name in data.classes:
            if data.num_objects.get(name, 0) < 10:
                count = data.num_objects.get(name, 0)
                self._note('note', f"class '{name}' has {count} objects", 'too few to learn: label more, or merge it')

    def _base_from(self, path: Path) -> str:
        base, folder = self.base.resolve(), path.resolve().parent
        # A config inside the clone stays right when the clone moves.
        if folder.is_relative_to(config_root().resolve().parent):
            return Path(os.path.relpath(base, folder)).as_posix()
        return base.as_posix()

    def _data(self) -> str:
        return (
            f'data_root = {self.statistics.root.resolve().as_posix() + "/"!r}\n'
            f'metainfo = {written(dict(classes=self.statistics.classes), before=11)}\n'
            f'num_classes = {len(self.statistics.classes)}'
        )

    def _model(self) -> dict:
        model: dict = {}
        if self.weights.kind == 'random':
            model['backbone'] = self._unfrozen_backbone()
        elif self.weights.kind == 'checkpoint':
            model['backbone'] = dict(init_cfg=None)
        elif self.weights.path:
            model['backbone'] = dict(init_cfg=dict(checkpoint=self.weights.path))
        for option, _, part in model_parts(self.zoo.model, 'model'):
            if part.get('num_classes') == _COCO_CLASSES:
                _set_class_count(model, option)
        roi_head = self.zoo.model.roi_head
        if roi_head.get('semantic_head') is not None:
            model['roi_head'].update(semantic_roi_extractor=None, semantic_head=None)
        return model

    def _unfrozen_backbone(self) -> dict:
        """Without weights to keep, norms must learn: frozen at their first values, activations grow to infinity."""
        backbone = self.zoo.model.backbone
        norm = dict(requires_grad=True)
        if backbone.norm_cfg.get('eps', 1) == 0:
            # The first implementation's 0 divides by the variance of channels that nothing has activated yet.
            norm['eps'] = 1e-5
        unfrozen = dict(init_cfg=None, norm_cfg=norm, norm_eval=False)
        if backbone.get('frozen_stages', -1) >= 0:
            unfrozen['frozen_stages'] = -1
        return unfrozen

    def _pipelines(self) -> str:
        lines = []
        for name, train in (('train_pipeline', True), ('test_pipeline', False)):
            lines.append(f'{name} = _base_.{name}')
            for index, transform in enumerate(self.zoo[name]):
                changes = self._changes(transform, train)
                if changes:
                    text = ', '.join(f'{key}={value!r}' for key, value in changes.items())
                    lines.append(f'{name}[{index}].update({text})')
        return '\n'.join(lines + self._tta_lines())

    def _tta_lines(self) -> list[str]:
        """The sizes of test-time augmentation, changed like that of the images."""
        zoo_short = _test_scale(self.zoo)[1]
        if 'tta_pipeline' not in self.zoo or self.short_side == zoo_short:
            return []
        ratio = self.short_side / zoo_short
        resizes = self.zoo.tta_pipeline[1].transforms[0]
        scales = [tuple(round(side * ratio) for side in resize.scale) for resize in resizes]
        transforms = "tta_pipeline[1]['transforms'][0]"
        return [
            f'tta_scales = {scales}',
            'tta_pipeline = _base_.tta_pipeline',
            f'{transforms} = [',
            f'    dict(resize, scale=scale) for resize, scale in zip({transforms}, tta_scales)',
            ']',
        ]

    def _changes(self, transform: dict, train: bool) -> dict:
        if transform.type == 'LoadAnnotations':
            changes = {}
            if self.statistics.has_rle and not transform.get('poly2mask', True):
                changes['poly2mask'] = True
            if transform.get('with_seg'):
                changes['with_seg'] = False
            return changes
        scale = (self.long_side, self.short_side)
        # Multi-scale training as the zoo's: from 0.8 of the side, Lite models from nearly all of it.
        if transform.type == 'RandomChoiceResize':
            sides = sorted({side for _, side in transform.scales})
            share = sides[0] / sides[-1]
            count = len(sides)
            steps = np.linspace(share, 1, count) * self.short_side
            return dict(scales=[(self.long_side, round(side)) for side in steps.tolist()])
        if transform.type == 'RandomResize':
            (_, low), (_, high) = transform.scale
            return dict(scale=[(self.long_side, round(self.short_side * low / high)), scale])
        return dict(scale=scale) if transform.type in ('Resize', 'ShortSideResize') else {}

    def _loaders(self) -> str:
        data, statements = self.statistics, []
        for split, name in (('train', 'train'), ('val', 'val'), ('test', 'test')):
            if split not in data.ann_files:
                continue
            prefix = dict(img=data.image_folders[split])
            if 'seg' in self.zoo[f'{name}_dataloader'].dataset.data_prefix:
                prefix = dict(_delete_=True, **prefix)
            dataset = dict(
                data_root=Code('data_root'),
                ann_file=data.ann_files[split],
                data_prefix=prefix,
                metainfo=Code('metainfo'),
                pipeline=Code('train_pipeline' if split == 'train' else 'test_pipeline'),
            )
            loader = dict(batch_size=self.batch_size, dataset=dataset) if split == 'train' else dict(dataset=dataset)
            statements.append(written_assignments(**{f'{name}_dataloader': loader}))
        if 'test' not in data.ann_files:
            statements.append('test_dataloader = val_dataloader')
        for split in ('val', 'test'):
            if split in data.ann_files:
                statements.append(f'{split}_evaluator = dict(ann_file=data_root + {data.ann_files[split]!r})')
            else:
                statements.append('test_evaluator = val_evaluator')
        return '\n'.join(statements)

    def _schedule(self) -> str:
        """Loop, learning rate, optimizer and hooks, counted as the zoo's config counts: in steps or in epochs."""
        by_epoch = 'max_epochs' in self.zoo.train_cfg
        end = self.epochs if by_epoch else self.max_iters
        interval = max(1, end // 10)
        warmup = min(1000, max(1, self.max_iters // 10))
        milestones = sorted({max(1, round(share * end)) for share in _MILESTONES})
        scheduler = [
            dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=warmup),
            dict(
                type='MultiStepLR', by_epoch=by_epoch, begin=0, end=Code('max_epochs' if by_epoch else 'max_iters'),
                milestones=milestones, gamma=0.1,
            ),
        ]  # fmt: skip
        length = 'max_epochs' if by_epoch else 'max_iters'
        loop = {length: Code(length), 'val_interval': interval}
        checkpoint = dict(interval=interval)
        if by_epoch:
            checkpoint.update(max_keep_ckpts=3, save_best='coco/segm_mAP', rule='greater')
        logger = dict(interval=max(1, min(50, self.max_iters // 50)))
        statements = dict(
            train_cfg=loop,
            param_scheduler=scheduler,
            optim_wrapper=self.optim_wrapper,
            default_hooks=dict(checkpoint=checkpoint, logger=logger),
        )
        if self.weights.kind == 'checkpoint':
            statements['load_from'] = self.weights.path
        return f'{length} = {end}\n' + written_assignments(**statements)

    def _choose_optimizer(self) -> dict:
        images = self.batch_size * self.num_processes
        if self.weights.kind == 'random':
            rate = float(f'{_RANDOM_LR * (images / _RANDOM_BATCH) ** 0.5:.3g}')
            why = f'{_RANDOM_LR} for {_RANDOM_BATCH} images of a step, in proportion to the root of {images}'
            self._note('learning rate', rate, f'AdamW, from random weights: {why}')
            optimizer = dict(_delete_=True, type='AdamW', lr=rate, weight_decay=0.05)
            # PyTorch has the fused step on a CPU since 2.4.
            if digit_version(torch.__version__) >= digit_version('2.4'):
                optimizer['fused'] = True
            return dict(optimizer=optimizer, clip_grad=dict(max_norm=10))
        zoo_rate, zoo_images = self.zoo.optim_wrapper.optimizer.lr, self.zoo.auto_scale_lr.base_batch_size
        rate = float(f'{zoo_rate * images / zoo_images:.3g}')
        self._note('learning rate', rate, f"the zoo's {zoo_rate} for {zoo_images} images, in proportion to {images}")
        return dict(optimizer=dict(lr=rate))


def written_assignments(**values: object) -> str:
    """Source of assignments."""
    return '\n'.join(f'{name} = {written(value, before=len(name) + 3)}' for name, value in values.items())


def _test_scale(config: Config) -> tuple[int, int]:
    """Bound of the longer side, and shorter side of a config's images."""
    for transform in config.test_pipeline:
        if 'scale' in transform:
            return max(transform.scale), min(transform.scale)
    raise InputError(f'{config.filename} resizes no images: take another --model')


def _set_class_count(model: dict, option: str) -> None:
    """Set ``num_classes`` in the part of a model at a place such as ``model.roi_head.bbox_head.0``."""
    keys = option.split('.')[1:]
    for place, key in enumerate(keys[:-1]):
        if keys[place + 1].isdigit():
            # A list is replaced as a whole; its parts are those of the zoo, but for the classes.
            source = '.'.join(['_base_', 'model', *keys[: place + 1]])
            model[key] = Code(f'[dict(head, num_classes=num_classes) for head in {source}]')
            return
        model = model.setdefault(key, {})
    model.setdefault(keys[-1], {})['num_classes'] = Code('num_classes')
