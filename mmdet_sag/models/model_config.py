"""What the config of a model says: its parts, their options, and what lets a random backbone train.

``option`` is the place of a config in the whole config, such as ``model.backbone``, and ``name`` its last key.
"""

import inspect
from collections.abc import Iterator
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from mmengine.registry import Registry


def config_parts(cfg: Any, option: str, name: str = '') -> Iterator[tuple[str, str, dict]]:
    """Yield ``option``, ``name`` and content of all mappings in a config, depth first.

    ``train_cfg`` and ``test_cfg`` are left out.
    """
    if isinstance(cfg, dict):
        yield option, name, cfg
        for key, value in cfg.items():
            if key not in ('train_cfg', 'test_cfg'):
                yield from config_parts(value, f'{option}.{key}', key)
    elif isinstance(cfg, (list, tuple)):
        for index, value in enumerate(cfg):
            yield from config_parts(value, f'{option}.{index}', name)


def type_name(cfg: dict) -> str:
    """Return the name of a config's class, without a scope such as ``mmdet.``; empty if there is none."""
    kind = cfg.get('type') or ''
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]


def class_of(cfg: dict, registry: Registry = MODELS) -> type:
    """Return the class of a part of a config, by default of a model, or ``object`` if it names none."""
    kind = cfg.get('type')
    kind = registry.get(kind) if isinstance(kind, str) else kind
    return kind if inspect.isclass(kind) else object


def option_value(cfg: dict, key: str) -> Any | None:
    """Return an option of a part of a model: the value in its config, or the default of its class, or None."""
    if key in cfg:
        return cfg[key]
    for base in inspect.getmro(class_of(cfg)):
        parameter = inspect.signature(base.__init__).parameters.get(key)  # type: ignore[misc]
        if parameter is not None:
            return None if parameter.default is parameter.empty else parameter.default
    return None


def set_option(cfg: dict, key: str, value: object) -> None:
    """Set an option such as ``norm_cfg.requires_grad`` in a config."""
    *parents, last = key.split('.')
    for parent in parents:
        cfg = cfg.setdefault(parent, {})
    cfg[last] = value


def is_pretrained(init_cfg: dict) -> bool:
    """Whether an initialization config loads weights from a file."""
    return init_cfg.get('type') in ('Pretrained', PretrainedInit)


def unfreezing(backbone: dict) -> dict[str, Any]:
    """Return the options that let a backbone without pretrained weights train; empty if nothing of it is frozen.

    The zoo's backbones freeze stages, and the weights and statistics of all norms, to keep their pretrained weights.
    Frozen norms do not normalise what random weights compute: activations grow from layer to layer, and losses become
    NaN within a few iterations.
    """
    options: dict[str, Any] = {}
    norm_cfg = backbone.get('norm_cfg') or {}
    if norm_cfg.get('requires_grad') is False:
        options['norm_cfg.requires_grad'] = True
    if norm_cfg.get('eps', 1) < 1e-12:
        # As in CenterMask's first implementation, which divides by the variance of channels that nothing has activated.
        options['norm_cfg.eps'] = 1e-5
    if option_value(backbone, 'norm_eval'):
        options['norm_eval'] = False
    frozen_stages = option_value(backbone, 'frozen_stages')
    if isinstance(frozen_stages, int) and frozen_stages >= 0:
        options['frozen_stages'] = -1
    return options


def unfreezing_options(cfg: dict, option: str = 'model', name: str = 'model') -> str:
    """Return :func:`unfreezing` of all backbones in a config as ``--cfg-options`` takes it; may be empty."""
    return ' '.join(
        f'{place}.{key}={value}'
        for place, part_name, part in config_parts(cfg, option, name)
        if part_name == 'backbone'
        for key, value in unfreezing(part).items()
    )


def random_weights_remedy(cfg: dict, option: str, name: str) -> str:
    """Return how to train from random weights if the pretrained weights of a part of a model are missing."""
    options = f'{option}.init_cfg=None {unfreezing_options(cfg, option, name)}'.rstrip()
    return f'train from random weights with --cfg-options {options}'


def unfreeze_random_backbones(cfg: Config) -> None:
    """Apply :func:`unfreezing` to all backbones of a training that loads no weights, and log it in one line each.

    The config is changed in place, before ``load_from`` is set to a checkpoint to resume.
    """
    if cfg.get('load_from') or cfg.get('model') is None:
        return
    parts = list(config_parts(cfg.model, 'model', 'model'))
    if any(part.get('pretrained') or (name == 'init_cfg' and is_pretrained(part)) for _, name, part in parts):
        return
    for option, name, backbone in parts:
        options = unfreezing_options(backbone, option, name)
        if name == 'backbone' and options:
            for key, value in unfreezing(backbone).items():
                set_option(backbone, key, value)
            print_log(
                f'{option} starts from random weights, so it is not kept frozen: {options}; with batch norm, several '
                'images per process are needed',
                logger='current',
            )
