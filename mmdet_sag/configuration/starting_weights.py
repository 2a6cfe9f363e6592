"""The weights that a training starts from."""

import os
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config

from ..checkpoints.zoo import build_without_weights, config_root
from ..checks.checkpoint import check_checkpoint_file
from ..engine.checkpoint_files import load_checkpoint_file
from ..errors import InputError
from ..fileio import is_remote
from ..models.backbones.timm_backbone import has_package
from ..models.model_config import type_name

# A checkpoint with other classes lacks a few weights, one of another model nearly all.
_LEAST_SHARE = 0.5
# File names in PyTorch's download folder, of addresses that do not contain them.
_DOWNLOADED = {
    'torchvision://resnet50': 'resnet50-*.pth',
    'open-mmlab://detectron2/resnet50_caffe': 'resnet50_msra-*.pth',
    'open-mmlab://detectron2/resnet101_caffe': 'resnet101_msra-*.pth',
    'open-mmlab://detectron2/resnext101_32x8d': 'resnext101_32x8d-*.pth',
}


class StartingWeights(NamedTuple):
    """Weights that a training starts from, and why: 'checkpoint', 'imagenet' for the backbone, or 'random'.

    ``path`` is the file of a detector's checkpoint, or of the backbone's weights if the zoo's address is not used.
    """

    kind: str
    path: str | None
    why: str


def find_weights(config: Config, load_from: str | None, source: str) -> StartingWeights:
    """Find the weights that a config of the zoo starts from: ``load_from``, a checkpoint of a detector, if it is given.

    Else ``source`` says which weights the backbone gets: ``'imagenet'``, downloaded if necessary; ``'random'``; or
    ``'auto'``: those that the config names, else ImageNet's if they are on this machine, else random ones.

    Raises:
        InputError: The checkpoint is damaged or of another model, or ImageNet weights were asked for and do not exist.
    """
    if load_from is not None:
        check_checkpoint_file(load_from, '--load-from')
        path = load_from if is_remote(load_from) else os.path.abspath(os.path.expanduser(load_from))
        shared = 'not checked, it is remote' if is_remote(load_from) else _shared_weights(config, path)
        return StartingWeights('checkpoint', path, f'named by --load-from; {shared}')
    if source == 'random':
        return StartingWeights('random', None, 'asked for with --weights random')
    backbone = config.model.backbone
    if type_name(backbone) == 'TIMMBackbone':
        if backbone.pretrained == 'pip' and has_package(backbone.model_name):
            return StartingWeights('imagenet', 'pip', 'ImageNet weights are installed')
        if source == 'imagenet':
            return StartingWeights('imagenet', None, 'timm downloads them')
        return StartingWeights('random', None, 'they are not on this machine (--weights imagenet downloads them)')
    if source == 'auto' and (own := config.load_from) is not None:
        return StartingWeights('checkpoint', own, f'they come with the package; {_shared_weights(config, own)}')
    address = (backbone.get('init_cfg') or {}).get('checkpoint')
    if address is None:
        return StartingWeights('random', None, f'no ImageNet weights are known for {type_name(backbone)}')
    if is_remote(address):
        pattern = _DOWNLOADED.get(address, Path(address).name)
        found = min(Path(torch.hub.get_dir(), 'checkpoints').glob(pattern), default=None)
        if found or source == 'imagenet':
            return StartingWeights('imagenet', None, 'is downloaded' if not found else f'is there: {found}')
        return StartingWeights('random', None, f'{address} is not on this machine (--weights imagenet downloads it)')
    places = [Path(address), config_root().parent / address]
    for place in places:
        if place.is_file():
            check_checkpoint_file(str(place), 'ImageNet weights')
            return StartingWeights('imagenet', str(place.absolute()), 'ImageNet weights are there')
    if source == 'imagenet':
        raise InputError(f"--weights imagenet: '{places[0]}' does not exist: make it as docs/checkpoints.md says")
    return StartingWeights('random', None, f'there is no {address} (docs/checkpoints.md says how to make it)')


def _shared_weights(config: Config, path: str) -> str:
    """Say how many weights of a model a checkpoint holds, and refuse a checkpoint of another model."""
    checkpoint = load_checkpoint_file(path, mmap=True)
    weights = {key.removeprefix('module.'): value for key, value in checkpoint.get('state_dict', checkpoint).items()}
    expected = build_without_weights(config).state_dict()
    fitting = sum(key in weights and weights[key].shape == value.shape for key, value in expected.items())
    if fitting < _LEAST_SHARE * len(expected):
        raise InputError(
            f"--load-from '{path}' holds {fitting} of the {len(expected)} weights of this model: give a checkpoint of "
            'the same --model'
        )
    return f'{fitting} of {len(expected)} weights are taken over, those of other classes start from random numbers'
