"""Checks of the checkpoints that a config names."""

import os
import zipfile

from mmengine.model import PretrainedInit

from ..errors import InputError
from ..fileio import is_remote
from .model import model_parts


def check_checkpoint_file(path: str, source: str) -> None:
    """Checks cheaply that a file exists and is a complete checkpoint, without loading it.

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
    """Checks that the local files of ``Pretrained`` initialisations exist and are complete.

    Args:
        model: Config of the model.

    Raises:
        InputError: A file is missing or not a checkpoint.
    """
    for option, name, cfg in model_parts(model, 'model'):
        if name != 'init_cfg' or cfg.get('type') not in ('Pretrained', PretrainedInit):
            continue
        path = cfg.get('checkpoint')
        if isinstance(path, str) and not is_remote(path) and not os.path.exists(os.path.expanduser(path)):
            # An entry of a list cannot be left out, only all of the list.
            whole = option[: option.rindex('init_cfg') + len('init_cfg')]
            raise InputError(
                f"pretrained weights '{path}' ({option}) do not exist: make them as docs/checkpoints.md says, or train "
                f'from random weights with --cfg-options {whole}=None'
            )
        check_checkpoint_file(path, f'{option}.checkpoint')
