"""Checks of a model's config: what it is built of, its class count, and its checkpoints."""

import difflib
import inspect
import os
import zipfile
from collections.abc import Iterator
from typing import Any, Optional

from mmdet.registry import MODELS

from ..errors import InputError
from ..fileio import is_remote

# The heads whose num_classes counts the data set's classes; an RPN's counts one.
_HEADS = ('bbox_head', 'mask_head', 'mask_iou_head')
_PARTS = (*_HEADS, 'backbone', 'neck', 'rpn_head', 'roi_head', 'bbox_roi_extractor', 'mask_roi_extractor')


def _parts(cfg: Any, option: str, name: str = '') -> Iterator[tuple[str, str, dict]]:
    """All mappings inside a model's config with their place and the key they stand under, depth first."""
    if isinstance(cfg, dict):
        yield option, name, cfg
        for key, value in cfg.items():
            if key in ('train_cfg', 'test_cfg'):
                continue
            yield from _parts(value, f'{option}.{key}', key)
    elif isinstance(cfg, (list, tuple)):
        for index, value in enumerate(cfg):
            yield from _parts(value, f'{option}.{index}', name)


def check_types(model: dict) -> None:
    """Checks that the classes of a model's main parts are registered.

    Args:
        model: Config of the model.

    Raises:
        InputError: A class is not registered, or the model has no type.
    """
    for option, name, cfg in _parts(model, 'model', 'model'):
        if name != 'model' and name not in _PARTS:
            continue
        kind = cfg.get('type')
        if kind is None and name == 'model':
            raise InputError('model has no type: name the class to build')
        if isinstance(kind, str) and MODELS.get(kind) is None:
            close = [] if '.' in kind else difflib.get_close_matches(kind, MODELS.module_dict, n=1)
            package = f'{kind.split(".")[0]} not installed' if '.' in kind else 'a custom_imports missing'
            remedy = f"did you mean '{close[0]}'?" if close else f'is {package}?'
            raise InputError(f"{option}.type: no class '{kind}' is registered; {remedy}")


def _num_classes(cfg: dict) -> Optional[int]:
    if 'num_classes' in cfg:
        return cfg['num_classes']
    kind = cfg.get('type')
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    for base in inspect.getmro(kind) if inspect.isclass(kind) else ():
        parameter = inspect.signature(base.__init__).parameters.get('num_classes')
        if parameter is not None:
            return None if parameter.default is parameter.empty else parameter.default
    return None


def check_class_count(model: dict, classes: tuple[str, ...], option: str) -> None:
    """Checks that every head of a model has as many classes as a data set.

    Args:
        model: Config of the model.
        classes: The data set's class names.
        option: Place of the data set in the config.

    Raises:
        InputError: A head has another number of classes.
    """
    wrong = {}
    for place, name, cfg in _parts(model, 'model'):
        if name in _HEADS:
            count = _num_classes(cfg)
            if count is not None and count != len(classes):
                wrong[place] = count
    if wrong:
        counts = ', '.join(f'{place}.num_classes is {count}' for place, count in wrong.items())
        options = ' '.join(f'{place}.num_classes={len(classes)}' for place in wrong)
        raise InputError(
            f'{counts}, but {option} has {len(classes)} classes: set --cfg-options {options}, or correct '
            f'{option}.metainfo.classes'
        )


def has_mask_branch(model: dict) -> bool:
    """Whether a model learns masks in RoIs; some one-stage models learn masks from boxes alone."""
    return any(name == 'mask_head' and '.roi_head.' in option for option, name, _ in _parts(model, 'model'))


def check_checkpoint_file(path: str, source: str) -> None:
    """Checks cheaply that a file exists and is a whole checkpoint, without loading it.

    Args:
        path: Path or address; what is not on the local disk is not checked.
        source: What names the file, such as ``load_from``.

    Raises:
        InputError: The file is missing, empty, truncated, or something else.
    """
    if not isinstance(path, str) or is_remote(path):
        return
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        what = 'is a folder, not a file' if os.path.isdir(path) else 'does not exist'
        raise InputError(f"checkpoint '{path}' ({source}) {what}: give the path of a .pth file")
    with open(path, 'rb') as file:
        start = file.read(2)
    if start == b'PK':
        if not zipfile.is_zipfile(path):
            raise InputError(f"checkpoint '{path}' ({source}) is truncated: copy or download it again")
    # Checkpoints of PyTorch before 1.6 and of Detectron2 are plain pickles, of protocol 2 or later.
    elif start[:1] != b'\x80':
        what = 'is empty' if not start else 'is not a PyTorch checkpoint'
        raise InputError(f"checkpoint '{path}' ({source}) {what}: copy or download it again")


def check_pretrained(model: dict) -> None:
    """Checks that the local files of ``Pretrained`` initialisations exist and are whole.

    Args:
        model: Config of the model.

    Raises:
        InputError: A file is missing or not a checkpoint.
    """
    for option, name, cfg in _parts(model, 'model'):
        if name != 'init_cfg' or cfg.get('type') != 'Pretrained':
            continue
        path = cfg.get('checkpoint')
        if isinstance(path, str) and not is_remote(path) and not os.path.exists(os.path.expanduser(path)):
            raise InputError(
                f"pretrained weights '{path}' ({option}) do not exist: make them as docs/checkpoints.md says, or train "
                f'from random weights with --cfg-options {option}=None'
            )
        check_checkpoint_file(path, f'{option}.checkpoint')
