"""From a checkpoint of CenterMask2 or ImageNet weights to a checkpoint of MMEngine."""

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.datasets import CocoDataset, CocoPanopticDataset
from torch import Tensor

from ..errors import InputError
from ..fileio import atomic_write, sha256
from ..version import __version__
from .centermask2 import rename_state_dict
from .first_centermask import is_first_implementation, rename_to_centermask2
from .reading import read_weights
from .timm_vovnet import IMAGENET_MEAN, IMAGENET_STD, fold_input_convention, rename_timm_vovnet
from .zoo import CONFIGS, FIRST_CONFIGS, PANOPTIC_CONFIGS, ZooModel, recognise_backbone, recognise_detector

DETECTOR = 'CenterMask2 detector'
PANOPTIC = 'CenterMask2 panoptic model'
FIRST_DETECTOR = 'CenterMask detector of the first implementation'
AUTHORS_BACKBONE = 'ImageNet backbone of the CenterMask2 authors'
TIMM_BACKBONE = 'ImageNet VoVNet of timm'
AUTHORS_LICENCE = (
    "the CenterMask2 authors' weights are CC BY-NC 4.0 (no commercial use); converting them does not change that"
)
FIRST_LICENCE = (
    "the first implementation is under BSD 2-Clause, with FCOS's notice that limits it to non-commercial purposes; "
    'converting its weights does not change that'
)
TIMM_LICENCE = 'the weights keep the licence that timm gives them (see the model card); converting does not change that'

_DUPLICATES = 'two of its keys mean the same parameter; get the file again'
_IS_TRAINING_STATE = 'state or note of the training, not weights'
# What is left out of a state dict, and why.
_DROPPED = (
    (r'(^|\.)num_batches_tracked$', 'frozen norm layers do not use it; written as 0'),
    (r'^pixel_(mean|std)$', "the config's data_preprocessor holds it"),
    (r'(^|\.)anchor_generator\.', 'computed, not learnt'),
)
_DROPPED_FROM_BACKBONE = (
    (r'^(classifier|fc|head)\.', "ImageNet's classifier"),
    (r'^features\.18\.', 'the conv before the classifier, which no detector reads'),
)


class Conversion(NamedTuple):
    """What a conversion did.

    ``kind`` is what the source is, ``model`` the config (or backbone) that it fits, ``num_classes`` its class count
    (0 for a backbone), ``mapped`` the number of tensors per part of the model, ``dropped`` what was left out by the
    reason why, ``added`` the number of counters written as 0, ``notes`` what the user should know, ``licence`` a word
    on the weights' licence.
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
) -> Conversion:
    """Convert a checkpoint and write it as one of MMEngine.

    The source is a CenterMask2 detector or panoptic model, a CenterMask detector of the first implementation, an
    ImageNet backbone of the authors (VoVNetV2, MobileNetV2), or a timm ``ese_vovnet*``: a file of PyTorch or
    safetensors, or a pickle of NumPy arrays. Which one, and which of the configs it fits, follows from its names and
    shapes. A model's checkpoint becomes one of the whole model, with the config and the class names in its meta; a
    backbone's becomes one for the backbone's ``init_cfg``.

    Args:
        src: The checkpoint to convert. Nothing in it is run.
        dst: The file to write, atomically.
        force: Whether an existing ``dst`` may be replaced.
        timm_mean: For timm's weights: mean of the RGB channels, for images in [0, 1], with which they were trained.
        timm_std: Standard deviation likewise.

    Returns:
        What was done.

    Raises:
        InputError: If the source cannot be used as a whole, or ``dst`` cannot be written.
    """
    src, dst = Path(src), Path(dst)
    _check_destination(src, dst, force)
    if min(timm_std) <= 0:
        raise InputError(f'timm std {tuple(timm_std)}: must be positive; give the std of the RGB channels')
    state_dict, dropped = _parameters(src, read_weights(src))
    try:
        state_dict, model, conversion = _convert(state_dict, dropped, timm_mean, timm_std)
    except InputError as error:
        raise InputError(f'{src}: {error}') from None
    meta = dict(
        source=src.name,
        source_sha256=sha256(src),
        source_kind=conversion.kind,
        licence=conversion.licence,
        mmdet_sag_version=__version__,
        time=time.strftime('%Y%m%d_%H%M%S'),
    )
    if conversion.num_classes:
        # As MMEngine names them: inference with no other config than the checkpoint's reads `cfg`.
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
    """Tensors of a checkpoint by name, and what was left out by reason."""
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
        parameters = {key[len('module.') :]: value for key, value in parameters.items()}
    return parameters, dropped


def _to_tensor(src: Path, key: str, value: Tensor | np.ndarray) -> Tensor:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in 'fiub':
            raise InputError(f'{src}: {key} is an array of {value.dtype}, not of numbers; get the file again')
        value = torch.from_numpy(np.array(value, dtype=np.float32 if value.dtype.kind == 'f' else np.int64, order='C'))
    return value.detach().float() if value.is_floating_point() else value


def _convert(
    state_dict: dict[str, Tensor], dropped: dict[str, list[str]], timm_mean: Sequence[float], timm_std: Sequence[float]
) -> tuple[dict[str, Tensor], ZooModel, Conversion]:
    pixel_statistics = {key: state_dict[key] for key in ('pixel_mean', 'pixel_std') if key in state_dict}
    state_dict = _drop(state_dict, dropped, _DROPPED)
    if strange := [key for key, value in state_dict.items() if not value.is_floating_point()]:
        raise InputError(f'{_shortened(strange)}: holds no floating-point numbers, as weights do; get the file again')
    kind = _kind_of(state_dict)
    num_classes = 0
    if kind in (DETECTOR, PANOPTIC, FIRST_DETECTOR):
        if kind == FIRST_DETECTOR:
            converted = rename_to_centermask2(state_dict)
            if len(converted) != len(state_dict):
                raise InputError(_DUPLICATES)
            converted = _rename(converted)
            converted, model, notes = _recognise_first_detector(converted, dropped)
        else:
            converted = _rename(state_dict)
            model, notes = recognise_detector(converted, PANOPTIC_CONFIGS if kind == PANOPTIC else CONFIGS), []
        num_classes = model.config.model.bbox_head.num_classes
        notes += _preprocessing_notes(model, pixel_statistics)
        if not _class_names(model):
            notes.append(f'{num_classes} classes are not those of COCO: no class names written')
    elif kind == AUTHORS_BACKBONE:
        state_dict = {re.sub(r'^(backbone\.)?bottom_up\.', '', key): value for key, value in state_dict.items()}
        converted = _rename(_drop(state_dict, dropped, _DROPPED_FROM_BACKBONE), 'backbone.bottom_up.', 'backbone.')
        model = recognise_backbone(converted)
        notes = []
    else:
        state_dict = _drop(state_dict, dropped, _DROPPED_FROM_BACKBONE)
        converted = rename_timm_vovnet(state_dict)
        num_blocks_without_ese = (len(converted) - len(state_dict)) // 2
        model = recognise_backbone(converted)
        converted = fold_input_convention(converted, timm_mean, timm_std)
        notes = [
            f'trained on RGB images in [0, 1] with mean {tuple(timm_mean)} and std {tuple(timm_std)}, which is now '
            "part of the stem: the config's data_preprocessor stays as it is",
        ]
        if num_blocks_without_ese:
            notes.append(f'{num_blocks_without_ese} blocks without eSE in timm got one that multiplies by 1')

    mapped = Counter(key.split('.')[0] for key in converted)
    added = _load_strictly(model, converted)
    licence = {TIMM_BACKBONE: TIMM_LICENCE, FIRST_DETECTOR: FIRST_LICENCE}.get(kind, AUTHORS_LICENCE)
    return converted, model, Conversion(kind, model.name, num_classes, mapped, dropped, added, notes, licence)


def _recognise_first_detector(
    state_dict: dict[str, Tensor], dropped: dict[str, list[str]]
) -> tuple[dict[str, Tensor], ZooModel, list[str]]:
    """Find the model of the first implementation; what it has no use for is left out."""
    notes = ['the background, channel 0 of the masks and of their IoU, which no detection is of, was left out']
    try:
        return state_dict, recognise_detector(state_dict, FIRST_CONFIGS), notes
    except InputError:
        mask_iou = [key for key in state_dict if key.startswith('roi_head.mask_iou_head.')]
        without = {key: value for key, value in state_dict.items() if key not in mask_iou}
        try:
            model = recognise_detector(without, FIRST_CONFIGS)
        except InputError:
            model = None
        if model is None or model.config.model.roi_head.mask_iou_head is not None:
            raise
    dropped['the published results of this model were made without a MaskIoU head'] = mask_iou
    return without, model, notes


def _rename(state_dict: Mapping[str, Tensor], prefix: str = '', new_prefix: str = '') -> dict[str, Tensor]:
    """Rename with both prefixes left out; what has no name here keeps its own."""
    renamed, unknown = rename_state_dict({prefix + key: value for key, value in state_dict.items()})
    if len(renamed) + len(unknown) != len(state_dict):
        raise InputError(_DUPLICATES)
    renamed = {key[len(new_prefix) :]: value for key, value in renamed.items()}
    return {**renamed, **{key[len(prefix) :]: state_dict[key[len(prefix) :]] for key in unknown}}


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
    def has(pattern: str) -> bool:
        return any(re.match(pattern, key) for key in state_dict)

    if has(r'sem_seg_head\.'):
        return PANOPTIC
    if is_first_implementation(state_dict):
        return FIRST_DETECTOR
    if has(r'(proposal_generator|roi_heads)\.'):
        return DETECTOR
    if has(r'(backbone\.)?(bottom_up\.)?(stem\.stem_\d/|stage\d\.OSA|features\.\d+\.)'):
        return AUTHORS_BACKBONE
    if has(r'stages\.\d\.blocks\.\d+\.conv_mid\.'):
        return TIMM_BACKBONE
    if has(r'bbox_head\.|stages\.\d\.\d+\.convs\.'):
        raise InputError('has the names of MMDetection already; load it as it is')
    first = ', '.join(list(state_dict)[:3]) or 'none'
    raise InputError(
        f'is neither a CenterMask detector nor a VoVNet or MobileNetV2 that can be converted (first keys: {first})'
    )


def _class_names(model: ZooModel) -> dict:
    """COCO's classes as MMDetection's data set has them, or nothing where the model has another number."""
    config = model.config.model
    num_things = config.bbox_head.num_classes
    if 'semantic_head' in config:
        info, counts = CocoPanopticDataset.METAINFO, (num_things, config.semantic_head.num_stuff_classes)
        return dict(info) if counts == (len(info['thing_classes']), len(info['stuff_classes'])) else {}
    return dict(CocoDataset.METAINFO) if num_things == len(CocoDataset.METAINFO['classes']) else {}


def _preprocessing_notes(model: ZooModel, pixel_statistics: Mapping[str, Tensor]) -> list[str]:
    notes = []
    for key, value in pixel_statistics.items():
        name = key[len('pixel_') :]
        expected = model.config.model.data_preprocessor[name]
        if value.numel() != 3 or not np.allclose(value.flatten().numpy(), expected, rtol=1e-4):
            given = [round(number, 4) for number in value.flatten().tolist()]
            notes.append(f'{key} is {given}, not {list(expected)}: set model.data_preprocessor.{name} in the config')
    return notes


def _load_strictly(model: ZooModel, state_dict: dict[str, Tensor]) -> int:
    """Load into the model, after adding the counters that it has and no published file does; return their number."""
    built = model.build()
    counters = [key for key in built.state_dict() if key.endswith('.num_batches_tracked')]
    state_dict.update({key: torch.zeros((), dtype=torch.long) for key in counters})
    # assign: the model is on the meta device, where there is nothing to copy into.
    built.load_state_dict(state_dict, strict=True, assign=True)
    return len(counters)


def _save(checkpoint: dict, dst: Path) -> None:
    try:
        dst.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(dst) as file:
            torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:  # RuntimeError: torch.save's, e.g. on a full disk.
        reason = getattr(error, 'strerror', None) or str(error).partition('\n')[0]
        raise InputError(f'{dst}: cannot be written ({reason}); choose another place') from error


def _shortened(keys: Sequence[str], limit: int = 4) -> str:
    return ', '.join(keys[:limit]) + (f', ... ({len(keys)} in all)' if len(keys) > limit else '')
