import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config

from ..checkpoints.zoo import config_root
from ..cpu.fused_adamw import FUSED
from ..errors import InputError
from ..models.backbones.timm_backbone import TIMMBackbone, has_package
from ..models.model_config import config_parts, set_option, unfreezing
from .starting_weights import find_weights
from .training_data_summary import TrainingDataSummary

_COCO_CLASSES = 80
# Smaller images are enlarged: 40 cells of the finest features.
_LEAST_CELLS = 40
# Objects with fewer cells across are lost.
_SMALL_OBJECT_CELLS = 3
# Detections of the fullest image, as a multiple of its objects, and the number that the metric counts.
_DETECTIONS_PER_OBJECT, _COUNTED = 1.5, 1000
# Most epochs up to this number of images, least epochs with many images.
_FEW_IMAGES, _MOST_EPOCHS, _LEAST_EPOCHS = 100, 150, 24
# Learning rate of AdamW from random weights, at this batch size.
_RANDOM_LR, _RANDOM_BATCH = 5e-4, 4
# Share of a training after which the loss of neighbouring pixels of objects without mask has its full weight.
_PAIRWISE_WARMUP = 1 / 3
# The zoo lowers its learning rate after 210,000 and 250,000 of 270,000 iterations.
_MILESTONES = 7 / 9, 25 / 27


class Choice(NamedTuple):
    """A setting that was chosen, its value, and the reason, for the user to read."""

    what: str
    value: str
    why: str


class GeneratedConfig:
    """A short config for the user's data, which inherits a config of the zoo.

    Args:
        data: Summary of the data.
        base: Config of the zoo.
        backbone: timm's name of a model that takes the place of the zoo's backbone.
        load_from: Checkpoint of a detector to start from.
        weights: ``source`` of :func:`find_weights`.
        batch_size: Images per step and process.
        num_processes: Number of processes that will train.
        epochs: Number of epochs; None: chosen by the number of images.
        short_side: Shorter side of the images in pixels; None: chosen by the sizes of the images.
        crop: Side of the square that is cut from a training image after it was resized; None: whole images.

    Attributes:
        choices: What was chosen, and why.

    Raises:
        InputError: A number is out of range, or a checkpoint cannot be used.
    """

    def __init__(
        self,
        data: TrainingDataSummary,
        base: Path,
        backbone: str | None = None,
        load_from: str | None = None,
        weights: str = 'auto',
        batch_size: int | None = None,
        num_processes: int = 1,
        epochs: int | None = None,
        short_side: int | None = None,
        crop: int | None = None,
    ) -> None:
        numbers = (('--batch-size', batch_size, 1), ('--gpus', num_processes, 1), ('--epochs', epochs, 1))
        for option, value, least in (*numbers, ('--short-side', short_side, 64), ('--crop', crop, 64)):
            if value is not None and value < least:
                raise InputError(f'{option} is {value}: give at least {least}')
        self.data = data
        self.base = base
        self.zoo = Config.fromfile(base)
        self.backbone = backbone
        if backbone is not None:
            self.zoo.merge_from_dict(dict(model=self._with_timm_backbone(backbone)))
        self.num_processes = num_processes
        self.choices: list[Choice] = []
        model = base.stem + (f' on {backbone}' if backbone else '')
        self._note('model', model, f'{len(data.classes)} classes: {", ".join(data.classes[:8])}')
        self.weights = find_weights(self.zoo, load_from, weights)
        start = dict(checkpoint=self.weights.path, imagenet='ImageNet weights of the backbone', random='random weights')
        self._note('start', start[self.weights.kind], self.weights.why)
        self.batch_size = self._choose_batch_size(batch_size)
        self.short_side, self.long_side = self._choose_size(short_side)
        self.crop = self._choose_crop(crop)
        self.max_per_img = self._choose_detections()
        self.epochs, self.steps_of_epoch = self._choose_schedule(epochs)
        self.optim_wrapper = self._choose_optimizer()
        self._note_data()
        self._note_boxes()

    def _with_timm_backbone(self, name: str) -> dict:
        """The parts of the model that a backbone of timm changes."""
        finest = min(2 ** (6 - len(self.zoo.model.neck.in_channels)), self._finest_stride)
        strides = [stride for stride in (4, 8, 16, 32) if stride >= finest]
        options = dict(model_name=name, out_indices=tuple(range(-len(strides), 0)))
        with torch.device('meta'):
            built = TIMMBackbone(**options)
        if built.out_strides != strides:
            raise InputError(f"--model: '{name}' has maps of strides {built.out_strides}, {strides} are needed")
        packed = has_package(name)
        mean, std = built.pixel_statistics if not packed else ([127.0] * 3, [128.0] * 3)
        return dict(
            data_preprocessor=dict(mean=mean, std=std, bgr_to_rgb=True),
            backbone=dict(_delete_=True, type='TIMMBackbone', **options, pretrained='pip' if packed else True),
            neck=dict(in_channels=built.out_channels),
        )

    @property
    def _finest_stride(self) -> int:
        return (self.zoo.model.get('bbox_head') or {}).get('strides', [8])[0]

    def text(self, path: Path) -> str:
        """Return the source of the config, which will be written to ``path``."""
        parts = (
            f'_base_ = {self._base_from(path)!r}',
            self._data_set(),
            _assignments(model=self._model()),
            self._pipelines(),
            self._loaders(),
            self._schedule(),
        )
        return '\n\n'.join(parts) + '\n'

    @property
    def max_iters(self) -> int:
        """Number of steps of the training."""
        return self.epochs * self.steps_of_epoch

    def _note(self, what: str, value: object, why: str) -> None:
        self.choices.append(Choice(what, str(value), why))

    def _choose_batch_size(self, given: int | None) -> int:
        chosen = min(4, self.data.num_images) if given is None else given
        why = 'usual for a GPU; --batch-size changes it, and the learning rate with it' if given is None else 'given'
        self._note('batch size', chosen, why)
        return chosen

    def _choose_size(self, given: int | None) -> tuple[int, int]:
        """Return the shorter side, and the limit of the longer one."""
        zoo_long, zoo_short = _test_scale(self.zoo)
        short_sides, long_sides = np.sort(self.data.sizes, axis=1).T
        if zoo_long == zoo_short:
            # Images are padded to a square, as in RTMDet.
            short_sides = long_sides
        median = float(np.median(short_sides))
        stride = self._finest_stride
        least = _LEAST_CELLS * stride
        if given is not None:
            short, why = given, 'given'
        elif median >= zoo_short:
            short, why = zoo_short, f"the zoo's; half of the images have {median:g} pixels or more"
        else:
            short = min(int(max(least, -(-median // 32) * 32)), zoo_short)
            why = f'half of the images have {median:g} pixels or more, and enlarging them adds nothing'
            if short > median and short == least:
                why = f'images of {median:g} pixels are too small for features of stride {stride}'
        if zoo_long == zoo_short:
            self._note('image size', f'square of {short}', why)
            return short, short
        aspect = min(3.0, max(zoo_long / zoo_short, float(np.percentile(long_sides / short_sides, 95))))
        long = round(short * aspect)
        self._note('image size', f'shorter side {short}, longer up to {long}', why)
        for name, size in self.data.object_sizes.items():
            across = size * short / median
            if across < _SMALL_OBJECT_CELLS * stride:
                why = f'half of them are below {across:.0f} pixels across at this size: try a larger --short-side'
                self._note('note', f"class '{name}' has small objects", why)
        return short, long

    def _choose_crop(self, given: int | None) -> list[dict]:
        """Return the transforms that cut a square from a training image."""
        if given is None:
            return []
        if any(step['type'] == 'RandomCrop' for step in self.zoo.train_pipeline):
            raise InputError(f'--crop: {self.base.stem} crops its training images already; leave it out')
        if given > self.long_side:
            raise InputError(f'--crop is {given}: images have at most {self.long_side} pixels; leave it out')
        self._note('crop', f'{given} pixels of a training image', 'given')
        crop = dict(type='RandomCrop', crop_size=(given, given), recompute_bbox=self._has_all_masks)
        if not self._has_all_masks:
            return [crop]
        # The pixels of an object may all be cut off while its box is not: its new box has no area, and MMDetection's
        # heads may take it for an object.
        return [crop, dict(type='FilterAnnotations', min_gt_bbox_wh=(0.01, 0.01), keep_empty=False)]

    @property
    def _has_all_masks(self) -> bool:
        # Else the box of an object without mask cannot be computed from it again.
        return not self.data.num_without_mask['train']

    def _choose_detections(self) -> int:
        """Return how many detections and proposals of an image there must be at least."""
        objects = self.data.most_objects
        needed = -(-round(objects * _DETECTIONS_PER_OBJECT) // 10) * 10
        if any(value < needed for _, value in _limits(self.zoo.model)):
            self._note('detections', f'up to {needed} an image', f'one training image has {objects} objects')
        return needed

    def _choose_schedule(self, given: int | None) -> tuple[int, int]:
        """Return the number of epochs, and of steps per epoch."""
        images = self.data.num_images
        steps = max(1, round(images / (self.batch_size * self.num_processes)))
        if given is not None:
            epochs, why = given, 'given'
        else:
            epochs = max(_LEAST_EPOCHS, round(_MOST_EPOCHS * min(1.0, (_FEW_IMAGES / images) ** 0.4)))
            why = f'{images} images with objects: {_MOST_EPOCHS} epochs up to {_FEW_IMAGES}, falling to {_LEAST_EPOCHS}'
            if self.weights.kind == 'random':
                epochs *= 2
                why += '; twice that from random weights'
        self._note('schedule', f'{epochs} epochs of {steps} steps', why)
        return epochs, steps

    def _note_data(self) -> None:
        data = self.data
        if data.num_empty:
            why = 'train_dataloader.dataset.filter_cfg.filter_empty_gt=False uses them as background'
            self._note('note', f'{data.num_empty} images without objects are not used', why)
        if data.has_rle:
            self._note('masks', 'bitmaps', 'some are RLE, which a pipeline of polygons would lose')
        for name in data.classes:
            if (count := data.num_objects.get(name, 0)) < 10:
                self._note('note', f"class '{name}' has {count} objects", 'too few to learn: label more, or merge it')

    def _note_boxes(self) -> None:
        boxes, objects = self.data.num_without_mask, sum(self.data.num_objects.values())
        if boxes['train']:
            if not isinstance(self.zoo.model.roi_head.mask_head, dict):
                raise InputError(
                    f'--model {self.base.stem}: {boxes["train"]} of {objects} objects have a box and no mask, which '
                    'models with several mask heads do not learn: choose another, such as centermask-lite_v39'
                )
            why = 'masks are learnt from boxes (docs/semi_supervised.md)'
            self._note('masks', f'{objects - boxes["train"]} of {objects} objects have one', why)
        for split, count in boxes.items():
            if count and split != 'train':
                self._note('note', f'{split} measures boxes alone', f'{count} of its objects have no mask')

    def _box_supervision(self, model: dict) -> None:
        """Let a model learn objects without mask from their boxes; see ``configs/_base_/models/box_supervision.py``."""
        options = Config.fromfile(config_root() / '_base_/models/box_supervision.py').box_supervision.to_dict()
        loss = options['roi_head']['mask_head']['loss_boxes']
        loss['warmup_iters'] = max(1, min(loss['warmup_iters'], round(self.max_iters * _PAIRWISE_WARMUP)))
        model['data_preprocessor'] = {**model.get('data_preprocessor', {}), **options['data_preprocessor']}
        model['roi_head']['mask_head']['loss_boxes'] = loss
        if self.zoo.model.roi_head.type == 'CenterMaskRoIHead':
            set_option(model, 'train_cfg.rcnn.roi_margin', options['train_cfg']['rcnn']['roi_margin'])
        no_masks = self.data.num_without_mask['train'] == sum(self.data.num_objects.values())
        if no_masks and self.zoo.model.roi_head.get('mask_iou_head') is not None:
            model['roi_head']['mask_iou_head'] = None

    def _base_from(self, path: Path) -> str:
        base, folder = self.base.resolve(), path.resolve().parent
        # A relative path inside the clone stays right if the clone is moved.
        if folder.is_relative_to(config_root().resolve().parent):
            return Path(os.path.relpath(base, folder)).as_posix()
        return base.as_posix()

    def _data_set(self) -> str:
        return (
            f'data_root = {self.data.root.resolve().as_posix() + "/"!r}\n'
            f'metainfo = {_source(dict(classes=self.data.classes), before=11)}\n'
            f'num_classes = {len(self.data.classes)}'
        )

    def _model(self) -> dict:
        model: dict = {}
        if self.backbone is not None:
            model = self._with_timm_backbone(self.backbone)
            trained = self.weights.kind == 'imagenet'
            # A step has few images, too few for statistics of their own.
            model['backbone'].update(pretrained=trained and (self.weights.path or True), norm_eval=trained)
        elif self.weights.kind == 'random':
            model['backbone'] = dict(init_cfg=None)
            for key, value in unfreezing(self.zoo.model.backbone).items():
                set_option(model['backbone'], key, value)
        elif self.weights.kind == 'checkpoint':
            model['backbone'] = dict(init_cfg=None)
        elif self.weights.path:
            model['backbone'] = dict(init_cfg=dict(checkpoint=self.weights.path))
        for option, _, part in config_parts(self.zoo.model, 'model'):
            if part.get('num_classes') == _COCO_CLASSES:
                _set_class_count(model, option)
        for option, value in _limits(self.zoo.model):
            if value < self.max_per_img:
                set_option(model, option, self.max_per_img)
        roi_head = self.zoo.model.roi_head
        if roi_head.get('semantic_head') is not None:
            model['roi_head'].update(semantic_roi_extractor=None, semantic_head=None)
        if self.data.num_without_mask['train']:
            self._box_supervision(model)
        return model

    def _pipelines(self) -> str:
        """The pipelines in full, as a change by position would hit another step once the zoo's pipeline changes."""
        pipelines = {
            name: [{**step, **self._changes(step, train)} for step in _without_scope(self.zoo[name])]
            for name, train in (('train_pipeline', True), ('test_pipeline', False))
        }
        resized = 1 + max(i for i, step in enumerate(pipelines['train_pipeline']) if 'Resize' in step['type'])
        pipelines['train_pipeline'][resized:resized] = self.crop
        return '\n'.join([_assignments(**pipelines), *self._tta_lines()])

    def _tta_lines(self) -> list[str]:
        """Scale the sizes of test-time augmentation like the images."""
        zoo_short = _test_scale(self.zoo)[1]
        if 'tta_resize' not in self.zoo or self.short_side == zoo_short:
            return []
        ratio = self.short_side / zoo_short
        resize = self.zoo.tta_resize[0]
        scales = [tuple(round(side * ratio) for side in step.scale) for step in self.zoo.tta_resize]
        return [
            f'tta_scales = {scales}',
            f'tta_resize = [{_source({**resize, "scale": _Code("scale")})} for scale in tta_scales]',
            "tta_pipeline = [*_base_.load, dict(type='TestTimeAug', transforms=[tta_resize, *_base_.tta_views])]",
        ]

    def _changes(self, transform: dict, train: bool) -> dict:
        kind = transform['type']
        if kind == 'LoadAnnotations':
            bitmaps = dict(poly2mask=True) if self.data.has_rle and not transform.get('poly2mask', True) else {}
            without_mask = self.data.num_without_mask
            count = sum(number for split, number in without_mask.items() if (split == 'train') == train)
            boxes = dict(type='LoadMaskOrBoxAnnotations') if count else {}
            return boxes | bitmaps | (dict(with_seg=False) if transform.get('with_seg') else {})
        scale = (self.long_side, self.short_side)
        # Multi-scale training covers the same range as in the zoo.
        if kind == 'RandomChoiceResize':
            sides = sorted({side for _, side in transform['scales']})
            steps = np.linspace(sides[0] / sides[-1], 1, len(sides)) * self.short_side
            return dict(scales=[(self.long_side, round(side)) for side in steps.tolist()])
        if kind == 'RandomResize' and isinstance(transform['scale'][0], int):
            ratio = self.short_side / _test_scale(self.zoo)[1]
            return dict(scale=tuple(round(side * ratio) for side in transform['scale']))
        for size in ('img_scale', 'crop_size', 'size'):
            if size in transform:
                boxes = dict(recompute_bbox=self._has_all_masks) if transform.get('recompute_bbox') else {}
                return {size: scale, **boxes}
        if kind == 'RandomResize':
            (_, low), (_, high) = transform['scale']
            return dict(scale=[(self.long_side, round(self.short_side * low / high)), scale])
        return dict(scale=scale) if kind in ('Resize', 'ShortSideResize') else {}

    def _loaders(self) -> str:
        data, statements = self.data, []
        for split in data.ann_files:
            prefix = dict(img=data.image_folders[split])
            if 'seg' in self.zoo[f'{split}_dataloader'].dataset.data_prefix:
                prefix = dict(_delete_=True, **prefix)
            dataset = dict(
                data_root=_Code('data_root'),
                ann_file=data.ann_files[split],
                data_prefix=prefix,
                metainfo=_Code('metainfo'),
                pipeline=_Code('train_pipeline' if split == 'train' else 'test_pipeline'),
            )
            loader = dict(batch_size=self.batch_size, dataset=dataset) if split == 'train' else dict(dataset=dataset)
            statements.append(_assignments(**{f'{split}_dataloader': loader}))
        if 'test' not in data.ann_files:
            statements.append('test_dataloader = val_dataloader')
        for split in ('val', 'test'):
            counted = f', proposal_nums=(100, 300, {self.max_per_img})' if self.max_per_img > _COUNTED else ''
            measured = ", metric='bbox'" if data.num_without_mask.get(split) else ''
            own = f'dict(ann_file=data_root + {data.ann_files.get(split)!r}{measured}{counted})'
            statements.append(f'{split}_evaluator = {own if split in data.ann_files else "val_evaluator"}')
        return '\n'.join(statements)

    def _schedule(self) -> str:
        """Write loop, learning rate, optimizer and hooks, in steps or epochs like the zoo's config."""
        by_epoch = 'max_epochs' in self.zoo.train_cfg
        length = 'max_epochs' if by_epoch else 'max_iters'
        end = self.epochs if by_epoch else self.max_iters
        interval = max(1, end // 10)
        warmup = min(1000, max(1, self.max_iters // 10))
        milestones = sorted({max(1, round(share * end)) for share in _MILESTONES})
        scheduler = [
            dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=warmup),
            dict(type='MultiStepLR', by_epoch=by_epoch, begin=0, end=_Code(length), milestones=milestones, gamma=0.1),
        ]
        loop = {length: _Code(length), 'val_interval': interval}
        if any(step.type == 'CosineAnnealingLR' for step in self.zoo.param_scheduler):
            begin = end // 2
            scheduler[1] = dict(
                type='CosineAnnealingLR',
                by_epoch=by_epoch,
                convert_to_iter_based=by_epoch,
                begin=begin,
                end=_Code(length),
                T_max=end - begin,
                eta_min_ratio=0.05,
            )
        checkpoint = dict(interval=interval)
        if by_epoch:
            checkpoint.update(max_keep_ckpts=3, save_best='coco/segm_mAP', rule='greater')
        if self.data.num_without_mask['val']:
            checkpoint['save_best'] = 'coco/bbox_mAP'
        logger = dict(interval=max(1, min(50, self.max_iters // 50)))
        statements = dict(
            train_cfg=loop,
            param_scheduler=scheduler,
            optim_wrapper=self.optim_wrapper,
            default_hooks=dict(checkpoint=checkpoint, logger=logger),
        )
        hooks = _without_scope(self.zoo.get('custom_hooks', []))
        for hook in hooks:
            if hook['type'] == 'PipelineSwitchHook':
                # The last stage of a training gets the same share of the epochs.
                switch = max(1, round(hook['switch_epoch'] / self.zoo.train_cfg.max_epochs * self.epochs))
                pipeline = [{**step, **self._changes(step, train=True)} for step in hook['switch_pipeline']]
                hook.update(switch_epoch=switch, switch_pipeline=pipeline)
                loop['dynamic_intervals'] = [(switch, 1)]
                statements['custom_hooks'] = hooks
        if self.weights.kind == 'checkpoint' or self.zoo.load_from:
            # The zoo's config may name weights too.
            statements['load_from'] = self.weights.path if self.weights.kind == 'checkpoint' else None
        return f'{length} = {end}\n' + _assignments(**statements)

    def _choose_optimizer(self) -> dict:
        images = self.batch_size * self.num_processes
        zoo_optimizer, zoo_images = self.zoo.optim_wrapper.optimizer, self.zoo.auto_scale_lr.base_batch_size
        if self.weights.kind == 'random' or self.backbone is not None:
            # The zoo's rate for AdamW is of a model whose weights are not random.
            known = self.weights.kind != 'random' and zoo_optimizer.type == 'AdamW'
            known_rate, known_images = (zoo_optimizer.lr, zoo_images) if known else (_RANDOM_LR, _RANDOM_BATCH)
            rate = float(f'{known_rate * (images / known_images) ** 0.5:.3g}')
            why = f'{known_rate} for {known_images} images of a step, in proportion to the root of {images}'
            self._note('learning rate', rate, f'AdamW: {why}')
            optimizer = dict(_delete_=True, type='AdamW', lr=rate, weight_decay=0.05)
            if FUSED:
                optimizer['fused'] = True
            return dict(optimizer=optimizer, clip_grad=dict(max_norm=10))
        zoo_rate = zoo_optimizer.lr
        rate = float(f'{zoo_rate * images / zoo_images:.3g}')
        self._note('learning rate', rate, f"the zoo's {zoo_rate} for {zoo_images} images, in proportion to {images}")
        return dict(optimizer=dict(lr=rate))


def _limits(model: dict) -> Iterator[tuple[str, int]]:
    """The options of a model that limit the detections or proposals of an image, with their values."""
    for phase in ('train_cfg', 'test_cfg'):
        for name, part in (model.get(phase) or {}).items():
            if isinstance(part, dict) and 'max_per_img' in part:
                yield f'{phase}.{name}.max_per_img', part['max_per_img']


class _Code(str):
    """Python source in place of a value."""

    def __repr__(self) -> str:
        return str(self)


def _assignments(**values: object) -> str:
    return '\n'.join(f'{name} = {_source(value, before=len(name) + 3)}' for name, value in values.items())


def _source(value: object, indent: int = 0, before: int = 0) -> str:
    """Write a config's value as Python source, with dicts as calls of ``dict``, in several lines if it is long.

    Its statement starts at column ``indent``, and ``before`` characters stand before the value in its line.
    """
    if not isinstance(value, (dict, list, tuple)):
        return repr(value)
    inner = indent + 4
    if isinstance(value, dict):
        start, end = 'dict(', ')'
        rows = [f'{key}={_source(item, inner, len(key) + 1)}' for key, item in value.items()]
    else:
        start, end = '[]' if isinstance(value, list) else '()'
        rows = [_source(item, inner) for item in value]
    line = start + ', '.join(rows) + (',' if start == '(' and len(rows) == 1 else '') + end
    if '\n' not in line and indent + before + len(line) < 120:
        return line
    return start + '\n' + ''.join(f'{" " * inner}{row},\n' for row in rows) + ' ' * indent + end


def _test_scale(config: Config) -> tuple[int, int]:
    """Return the limit of the longer side, and the shorter side, of a config's images."""
    for transform in config.test_pipeline:
        if 'scale' in transform:
            return max(transform.scale), min(transform.scale)
    raise InputError(f'{config.filename} resizes no images: take another --model')


def _without_scope(value: object) -> object:
    """A value of a config without the ``_scope_`` that MMEngine adds to what it inherits from MMDetection."""
    if isinstance(value, dict):
        return {key: _without_scope(item) for key, item in value.items() if key != '_scope_'}
    return type(value)(map(_without_scope, value)) if isinstance(value, (list, tuple)) else value


def _set_class_count(model: dict, option: str) -> None:
    """Set ``num_classes`` in a part of a model, such as ``model.roi_head.bbox_head.0``."""
    if listed := re.match(r'model\.(.+?)\.\d', option):
        # A list in a config replaces the inherited one.
        heads = f'[dict(head, num_classes=num_classes) for head in _base_.model.{listed[1]}]'
        set_option(model, listed[1], _Code(heads))
    else:
        set_option(model, f'{option.removeprefix("model.")}.num_classes', _Code('num_classes'))
