"""Checks of a model's config: what it is built of, and its class count."""

import difflib
import inspect
from collections.abc import Iterator
from typing import Any

from mmdet.registry import MODELS

from ..errors import InputError

# The heads whose num_classes counts the data set's classes; an RPN's counts one.
_HEADS = ('bbox_head', 'mask_head', 'mask_iou_head')
_PARTS = (*_HEADS, 'backbone', 'neck', 'rpn_head', 'roi_head', 'bbox_roi_extractor', 'mask_roi_extractor')


def model_parts(cfg: Any, option: str, name: str = '') -> Iterator[tuple[str, str, dict]]:
    """All mappings inside a model's config with their place and the key they stand under, depth first."""
    if isinstance(cfg, dict):
        yield option, name, cfg
        for key, value in cfg.items():
            if key in ('train_cfg', 'test_cfg'):
                continue
            yield from model_parts(value, f'{option}.{key}', key)
    elif isinstance(cfg, (list, tuple)):
        for index, value in enumerate(cfg):
            yield from model_parts(value, f'{option}.{index}', name)


def check_types(model: dict) -> None:
    """Checks that the classes of a model's main parts are registered.

    Args:
        model: Config of the model.

    Raises:
        InputError: A class is not registered, or the model has no type.
    """
    for option, name, cfg in model_parts(model, 'model', 'model'):
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


def option_value(cfg: dict, key: str) -> Any | None:
    """An option of a part of a model: what its config says, or the default of its class, or None.

    Args:
        cfg: Config of the part.
        key: Name of the option.
    """
    if key in cfg:
        return cfg[key]
    kind = cfg.get('type')
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    for base in inspect.getmro(kind) if inspect.isclass(kind) else ():
        parameter = inspect.signature(base.__init__).parameters.get(key)
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
    for place, name, cfg in model_parts(model, 'model'):
        if name in _HEADS:
            count = option_value(cfg, 'num_classes')
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
    return any(name == 'mask_head' and '.roi_head.' in option for option, name, _ in model_parts(model, 'model'))
