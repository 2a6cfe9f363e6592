"""What a backbone without pretrained weights needs in order to train."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import PretrainedInit

from .model import model_parts, option_value


def unfreeze_random_backbones(cfg: Config) -> None:
    """Let a training that loads no weights learn all of its backbones, which is one line of the log.

    The zoo's backbones keep stages, and the weights and statistics of all norms, as the pretrained weights have them.
    Of random weights, such norms normalise nothing: activations grow from layer to layer, and losses turn NaN within a
    few iterations.

    Args:
        cfg: Config of the run, before ``load_from`` is set to a checkpoint to resume; it is changed in place.
    """
    if cfg.get('load_from') or cfg.get('model') is None or _loads_weights(cfg.model):
        return
    for option, name, backbone in model_parts(cfg.model, 'model', 'model'):
        if name != 'backbone':
            continue
        changes = dict(_changes(backbone))
        for key, value in changes.items():
            *parents, last = key.split('.')
            part = backbone
            for parent in parents:
                part = part[parent]
            part[last] = value
        if changes:
            options = ' '.join(f'{option}.{key}={value}' for key, value in changes.items())
            print_log(
                f'{option} starts from random weights, so it is not kept frozen: {options}; with batch norm, several '
                'images per process are needed',
                logger='current',
            )


def _loads_weights(model: dict) -> bool:
    return any(
        part.get('pretrained') or (name == 'init_cfg' and part.get('type') in ('Pretrained', PretrainedInit))
        for _, name, part in model_parts(model, 'model', 'model')
    )


def _changes(backbone: dict) -> Iterator[tuple[str, Any]]:
    """Options of a backbone that keep something of it as it was made, with the values that do not."""
    if (backbone.get('norm_cfg') or {}).get('requires_grad') is False:
        yield 'norm_cfg.requires_grad', True
    if option_value(backbone, 'norm_eval'):
        yield 'norm_eval', False
    frozen_stages = option_value(backbone, 'frozen_stages')
    if isinstance(frozen_stages, int) and frozen_stages >= 0:
        yield 'frozen_stages', -1
