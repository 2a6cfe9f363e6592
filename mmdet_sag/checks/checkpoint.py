"""Checks of the checkpoints that a config names."""

import os
from pathlib import Path

from ..checkpoints.reading import archive_damage
from ..errors import InputError
from ..fileio import is_remote
from ..models.model_config import config_parts, is_pretrained, random_weights_remedy


def check_checkpoint_file(path: str | None, source: str) -> None:
    """Check that a local file, which ``source`` names, is a whole checkpoint, without loading it."""
    if not isinstance(path, str) or is_remote(path):
        return
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        what = 'is a folder, not a file' if os.path.isdir(path) else 'does not exist'
        raise InputError(f"checkpoint '{path}' ({source}) {what}: give the path of a .pth file")
    with open(path, 'rb') as file:
        start = file.read(2)
    if start == b'PK':
        if damage := archive_damage(Path(path)):
            raise InputError(
                f"checkpoint '{path}' ({source}) is damaged or truncated ({damage}): copy or download it again"
            )
    # Checkpoints of PyTorch before 1.6 and of Detectron2 are plain pickles, of protocol 2 or later.
    elif start[:1] != b'\x80':
        what = 'is empty' if not start else 'is not a PyTorch checkpoint'
        raise InputError(f"checkpoint '{path}' ({source}) {what}: copy or download it again")


def check_pretrained(model: dict, load_from: str | None = None) -> None:
    """Check that the local files of a model's ``Pretrained`` initialisations exist and are complete."""
    for option, name, part in config_parts(model, 'model', 'model'):
        for place, _, init_cfg in config_parts(part.get('init_cfg'), f'{option}.init_cfg'):
            if not is_pretrained(init_cfg):
                continue
            path = init_cfg.get('checkpoint')
            if isinstance(path, str) and not is_remote(path) and not os.path.exists(os.path.expanduser(path)):
                # One entry of a list cannot be left out, only the list.
                leave_out = f'leave them to load_from with --cfg-options {option}.init_cfg=None'
                remedy = leave_out if load_from else random_weights_remedy(part, option, name)
                raise InputError(
                    f"pretrained weights '{path}' ({place}) do not exist: make them as docs/checkpoints.md says, or "
                    f'{remedy}'
                )
            check_checkpoint_file(path, f'{place}.checkpoint')
