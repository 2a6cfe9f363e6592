"""Converts checkpoints of CenterMask2 and CenterMask, and ImageNet weights, to checkpoints of MMEngine."""

import contextlib
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

# Before mmdet: in a clone that is not installed, this finds the operators that mmdet wants.
import mmdet_sag

# isort: split
from centermask_names import rename_state_dict, rename_to_centermask2
from detectron2_pickle import read_pickle
from known_models import (
    CONFIGS,
    FIRST_CONFIGS,
    PANOPTIC_CONFIGS,
    ZooModel,
    recognise_backbone,
    recognise_detector,
)
from mmdet.datasets import CocoDataset, CocoPanopticDataset
from timm_vovnet import IMAGENET_MEAN, IMAGENET_STD, fold_input_convention, rename_timm_vovnet
from torch import Tensor

from mmdet_sag.checkpoints.reading import read_weights
from mmdet_sag.checkpoints.zoo import build_without_weights
from mmdet_sag.errors import InputError
from mmdet_sag.fileio import atomic_write, sha256

DETECTOR = 'CenterMask2 detector'
PANOPTIC = 'CenterMask2 panoptic model'
FIRST_DETECTOR = 'CenterMask detector of the first implementation'
AUTHORS_BACKBONE = 'ImageNet backbone of the CenterMask2 authors'
TIMM_BACKBONE = 'ImageNet VoVNet of timm'
_AUTHORS_LICENCE = (
    "the CenterMask2 authors' weights are CC BY-NC 4.0 (no commercial use); converting them does not change that"
)
_LICENCES = {
    DETECTOR: _AUTHORS_LICENCE,
    PANOPTIC: _AUTHORS_LICENCE,
    AUTHORS_BACKBONE: _AUTHORS_LICENCE,
    FIRST_DETECTOR: "the first implementation is under BSD 2-Clause, with FCOS's notice that limits it to "
    'non-commercial purposes; converting its weights does not change that',
    TIMM_BACKBONE: 'the weights keep the licence that timm gives them (see the model card); converting does not change '
    'that',
}
# Names of parameters of each kind; the first kind that has one is taken.
_KINDS = {
    PANOPTIC: r'sem_seg_head\.',
    FIRST_DETECTOR: r'(rpn\.head|backbone\.body|backbone\.fpn|roi_heads\.(mask|maskiou))\.',
    DETECTOR: r'(proposal_generator|roi_heads)\.',
    AUTHORS_BACKBONE: r'(backbone\.)?(bottom_up\.)?(stem\.stem_\d/|stage\d\.OSA|features\.\d+\.)',
    TIMM_BACKBONE: r'stages\.\d\.blocks\.\d+\.conv_mid\.',
}
_DUPLICATES = 'two of its keys mean the same parameter; get the file again'
_IS_TRAINING_STATE = 'state or note of the training, not weights'
# Parameters that are dropped, and why.
_DROPPED = (
    (r'(^|\.)num_batches_tracked$', 'frozen norm layers do not use it; written as 0'),
    (r'^pixel_(mean|std)$', "the config's data_preprocessor holds it"),
    (r'(^|\.)anchor_generator\.', 'computed, not learnt'),
)
_DROPPED_FROM_BACKBONE = (
    (r'^(classifier|fc|head)\.', "ImageNet's classifier"),
    (r'^features\.18\.', 'the conv before the classifier, which no detector reads'),
)


class CheckpointConversion(NamedTuple):
    """The result of a conversion.

    Attributes:
        kind: What the source is.
        model: The config, or the backbone, that the weights fit.
        num_classes: Number of classes; 0 for a backbone.
        mapped: Number of tensors by part of the model.
        dropped: Names of what was left out, by reason.
        added: Number of counters that were added as 0.
        notes: What the user should know.
        licence: The weights' licence.
    """

    kind: str
    model: str
    num_classes: int
    mapped: Mapping[str, int]
    dropped: Mapping[str, Sequence[str]]
    added: int
    notes: Sequence[str]
    licence: str

    def __str__(self) -> str:
        classes = f', {self.num_classes} classes' if self.num_classes else ''
        parts = ', '.join(f'{part} {count}' for part, count in self.mapped.items())
        lines = [f'source: {self.kind}', f'model: {self.model}{classes}']
        lines.append(f'mapped: {sum(self.mapped.values())} tensors ({parts}); the model loads them strictly')
        lines += [f'dropped: {_shortened(keys)}: {reason}' for reason, keys in self.dropped.items()]
        if self.added:
            lines.append(f'added: {self.added} num_batches_tracked = 0, counters that MMDetection has')
        lines += [f'note: {note}' for note in self.notes]
        return '\n'.join([*lines, f'licence: {self.licence}'])


def convert_checkpoint(
    src: str | Path,
    dst: str | Path,
    force: bool = False,
    timm_mean: Sequence[float] = IMAGENET_MEAN,
    timm_std: Sequence[float] = IMAGENET_STD,
) -> CheckpointConversion:
    """Convert a checkpoint to one of MMEngine.

    The source is a CenterMask2 detector or panoptic model, a CenterMask detector of the first implementation, an
    ImageNet backbone of the authors (VoVNetV2, MobileNetV2), or a timm ``ese_vovnet*``: a file of PyTorch or
    safetensors, or a pickle of NumPy arrays. Names and shapes of its parameters say which one it is, and which config
    it fits. A detector's checkpoint gets the config and the class names in its ``meta``; a backbone's is for the
    backbone's ``init_cfg``.

    Args:
        src: The checkpoint to convert. No code in it is run.
        dst: The file to write, atomically.
        force: Whether to replace ``dst`` if it exists.
        timm_mean: For timm's weights: mean of the RGB channels in [0, 1] that they were trained with.
        timm_std: For timm's weights: standard deviation of the same.

    Returns:
        What was done.

    Raises:
        InputError: The source cannot be converted, or ``dst`` cannot be written.
    """
    src, dst = Path(src), Path(dst)
    _check_destination(src, dst, force)
    if min(timm_std) <= 0:
        raise InputError(f'timm std {tuple(timm_std)}: must be positive; give the std of the RGB channels')
    state_dict, dropped = _parameters(src, read_weights(src, read_pickle=read_pickle))
    try:
        state_dict, model, conversion = _convert(state_dict, dropped, timm_mean, timm_std)
    except InputError as error:
        raise InputError(f'{src}: {error}') from None
    meta: dict[str, Any] = dict(
        source=src.name,
        source_sha256=sha256(src),
        source_kind=conversion.kind,
        licence=conversion.licence,
        mmdet_sag_version=mmdet_sag.__version__,
        time=time.strftime('%Y%m%d_%H%M%S'),
    )
    if conversion.num_classes:
        # MMEngine's inference reads `cfg` if it is given a checkpoint without a config.
        meta.update(config=model.name, cfg=model.config.pretty_text)
        if names := _class_names(model):
            meta['dataset_meta'] = names
    _save(dict(meta=meta, state_dict=state_dict), dst)
    return conversion


def _check_destination(src: Path, dst: Path, force: bool) -> None:
    if not src.is_file():
        raise InputError(f'{src}: no such file; give the checkpoint to convert')
    if dst.is_dir():
        raise InputError(f'{dst}: is a folder; give the name of the file to write')
    if dst.exists():
        if dst.samefile(src):
            raise InputError(f'{dst}: is the source itself; give another file to write')
        if not force:
            raise InputError(f'{dst}: exists already; choose another name, or --force to replace it')


def _parameters(src: Path, content: Any) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Return the tensors of a checkpoint by name, and the names of the rest by reason."""
    dropped: dict[str, list[str]] = {}
    if isinstance(content, Mapping):
        for key in ('model', 'state_dict'):
            if isinstance(content.get(key), Mapping):
                if rest := [str(other) for other in content if other != key]:
                    dropped[_IS_TRAINING_STATE] = rest
                content = content[key]
                break
    if not isinstance(content, Mapping):
        raise InputError(f'{src}: holds no weights by name, but a {type(content).__name__}; give a checkpoint')
    parameters = {}
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, (Tensor, np.ndarray)):
            parameters[key] = _to_tensor(src, key, value)
        else:
            dropped.setdefault(_IS_TRAINING_STATE, []).append(str(key))
    if parameters and all(key.startswith('module.') for key in parameters):
        parameters = {key.removeprefix('module.'): value for key, value in parameters.items()}
    return parameters, dropped


def _to_tensor(src: Path, key: str, value: Tensor | np.ndarray) -> Tensor:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in 'fiub':
            raise InputError(f'{src}: {key} is an array of {value.dtype}, not of numbers; get the file again')
        value = torch.from_numpy(np.array(value, dtype=np.float32 if value.dtype.kind == 'f' else np.int64, order='C'))
    return value.detach().float() if value.is_floating_point() else value


def _convert(
    state_dict: dict[str, Tensor], dropped: dict[str, list[str]], timm_mean: Sequence[float], timm_std: Sequence[float]
) -> tuple[dict[str, Tensor], ZooModel, CheckpointConversion]:
    pixel_statistics = {key: value for key, value in state_dict.items() if key in ('pixel_mean', 'pixel_std')}
    state_dict = _drop(state_dict, dropped, _DROPPED)
    if strange := [key for key, value in state_dict.items() if not value.is_floating_point()]:
        raise InputError(f'{_shortened(strange)}: holds no floating-point numbers, as weights do; get the file again')
    kind = _kind_of(state_dict)
    num_classes, notes = 0, []
    if kind in (DETECTOR, PANOPTIC, FIRST_DETECTOR):
        if kind == FIRST_DETECTOR:
            renamed = rename_to_centermask2(state_dict)
            if len(renamed) != len(state_dict):
                raise InputError(_DUPLICATES)
            converted, model = _recognise_first_detector(_rename(renamed), dropped)
            notes.append('channel 0 of the masks and of their IoU, the background, was left out')
        else:
            converted = _rename(state_dict)
            model = recognise_detector(converted, PANOPTIC_CONFIGS if kind == PANOPTIC else CONFIGS)
        num_classes = model.config.model.bbox_head.num_classes
        notes += _preprocessing_notes(model, pixel_statistics)
        if not _class_names(model):
            notes.append(f'{num_classes} classes are not those of COCO: no class names written')
    elif kind == AUTHORS_BACKBONE:
        state_dict = {re.sub(r'^(backbone\.)?bottom_up\.', '', key): value for key, value in state_dict.items()}
        converted = _rename(_drop(state_dict, dropped, _DROPPED_FROM_BACKBONE), 'backbone.bottom_up.', 'backbone.')
        model = recognise_backbone(converted)
    else:
        state_dict = _drop(state_dict, dropped, _DROPPED_FROM_BACKBONE)
        converted = rename_timm_vovnet(state_dict)
        num_blocks_without_ese = (len(converted) - len(state_dict)) // 2
        model = recognise_backbone(converted)
        converted = fold_input_convention(converted, timm_mean, timm_std)
        notes.append(
            f'trained on RGB images in [0, 1] with mean {tuple(timm_mean)} and std {tuple(timm_std)}, which is now '
            "part of the stem: the config's data_preprocessor stays as it is"
        )
        if num_blocks_without_ese:
            notes.append(f'{num_blocks_without_ese} blocks without eSE in timm got one that multiplies by 1')

    mapped = Counter(key.split('.')[0] for key in converted)
    added = _load_strictly(model, converted)
    result = CheckpointConversion(kind, model.name, num_classes, mapped, dropped, added, notes, _LICENCES[kind])
    return converted, model, result


def _recognise_first_detector(
    state_dict: dict[str, Tensor], dropped: dict[str, list[str]]
) -> tuple[dict[str, Tensor], ZooModel]:
    """Find the model of the first implementation, and drop a MaskIoU head that it does not use."""
    try:
        return state_dict, recognise_detector(state_dict, FIRST_CONFIGS)
    except InputError:
        rest = {key: value for key, value in state_dict.items() if not key.startswith('roi_head.mask_iou_head.')}
        with contextlib.suppress(InputError):
            model = recognise_detector(rest, FIRST_CONFIGS)
            if model.config.model.roi_head.mask_iou_head is None:
                reason = 'the published results of this model were made without a MaskIoU head'
                dropped[reason] = [key for key in state_dict if key not in rest]
                return rest, model
        raise


def _rename(state_dict: Mapping[str, Tensor], prefix: str = '', new_prefix: str = '') -> dict[str, Tensor]:
    """Rename parameters that lack a prefix; unknown names stay as they are."""
    prefixed = {prefix + key: value for key, value in state_dict.items()}
    renamed, unknown = rename_state_dict(prefixed)
    if len(renamed) + len(unknown) != len(state_dict):
        raise InputError(_DUPLICATES)
    renamed = {key.removeprefix(new_prefix): value for key, value in renamed.items()}
    return {**renamed, **{key.removeprefix(prefix): prefixed[key] for key in unknown}}


def _drop(
    state_dict: dict[str, Tensor], dropped: dict[str, list[str]], rules: Sequence[tuple[str, str]]
) -> dict[str, Tensor]:
    kept = {}
    for key, value in state_dict.items():
        reason = next((reason for pattern, reason in rules if re.search(pattern, key)), None)
        if reason is None:
            kept[key] = value
        else:
            dropped.setdefault(reason, []).append(key)
    return kept


def _kind_of(state_dict: Mapping[str, Tensor]) -> str:
    for kind, pattern in _KINDS.items():
        if any(re.match(pattern, key) for key in state_dict):
            return kind
    if any(re.match(r'bbox_head\.|stages\.\d\.\d+\.convs\.', key) for key in state_dict):
        raise InputError('has the names of MMDetection already; load it as it is')
    first = ', '.join(list(state_dict)[:3]) or 'none'
    raise InputError(
        f'is neither a CenterMask detector nor a VoVNet or MobileNetV2 that can be converted (first keys: {first})'
    )


def _class_names(model: ZooModel) -> dict:
    """Return COCO's classes as MMDetection's data set has them, or nothing if the model has another number."""
    config = model.config.model
    num_things = config.bbox_head.num_classes
    if 'semantic_head' in config:
        info, counts = CocoPanopticDataset.METAINFO, (num_things, config.semantic_head.num_stuff_classes)
        return dict(info) if counts == (len(info['thing_classes']), len(info['stuff_classes'])) else {}
    return dict(CocoDataset.METAINFO) if num_things == len(CocoDataset.METAINFO['classes']) else {}


def _preprocessing_notes(model: ZooModel, pixel_statistics: Mapping[str, Tensor]) -> list[str]:
    notes = []
    for key, value in pixel_statistics.items():
        name = key.removeprefix('pixel_')
        expected = model.config.model.data_preprocessor[name]
        if value.numel() != 3 or not np.allclose(value.flatten().numpy(), expected, rtol=1e-4):
            given = [round(number, 4) for number in value.flatten().tolist()]
            notes.append(f'{key} is {given}, not {list(expected)}: set model.data_preprocessor.{name} in the config')
    return notes


def _load_strictly(model: ZooModel, state_dict: dict[str, Tensor]) -> int:
    """Add the counters of norm layers, which no published file has, load all, and return the number of counters."""
    built = build_without_weights(model.config)
    counters = [key for key in built.state_dict() if key.endswith('.num_batches_tracked')]
    state_dict.update({key: torch.zeros((), dtype=torch.long) for key in counters})
    # The model is on the meta device, which cannot be copied into.
    built.load_state_dict(state_dict, strict=True, assign=True)
    return len(counters)


def _save(checkpoint: dict, dst: Path) -> None:
    try:
        dst.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(dst) as file:
            torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError, e.g. on a full disk.
        reason = getattr(error, 'strerror', None) or str(error).partition('\n')[0]
        raise InputError(f'{dst}: cannot be written ({reason}); choose another place') from error


def _shortened(keys: Sequence[str], limit: int = 4) -> str:
    return ', '.join(keys[:limit]) + (f', ... ({len(keys)} in all)' if len(keys) > limit else '')
