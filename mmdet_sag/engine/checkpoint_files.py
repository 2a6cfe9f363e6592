import itertools
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mmengine.fileio import get_file_backend
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import CheckpointLoader
from torch import nn

from ..checkpoints.reading import read_weights
from ..errors import InputError
from ..fileio import is_remote
from .safe_globals import LOADS_SAFELY


def load_checkpoint_file(path: str, mmap: bool = False) -> dict:
    """Read a model's checkpoint onto the CPU.

    With PyTorch 2.6 or newer, no code in the file is run.

    Args:
        path: Path of the file, or an address as MMEngine knows them (``https://...``).
        mmap: Leave the tensors of a local file on the disk until they are used.

    Raises:
        InputError: There is no such file, or it is not a complete checkpoint.
    """
    if is_remote(path):
        return CheckpointLoader.load_checkpoint(path, map_location='cpu')
    if LOADS_SAFELY or not Path(path).is_file():
        checkpoint = read_weights(Path(path), mmap)
    else:
        # MMEngine will load it like this, and PyTorch's safe loading knows nothing of MMEngine yet.
        try:
            checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
        except Exception as e:
            raise InputError(f'{path}: is damaged, truncated or no checkpoint at all; get the file again') from e
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get('state_dict', checkpoint), dict):
        raise InputError(f'{path}: holds no state_dict; give a checkpoint of a model')
    return checkpoint


def newest_checkpoint(work_dir: str, checkpoint_hook: dict | None = None) -> str | None:
    """Find the newest checkpoint of a run from which its training can go on.

    The run's own checkpoints are the file that ``last_checkpoint`` names, and those with the names that the run's
    checkpoint hook gives, unless they say that they were saved into another folder than that file. Of each kind of
    name, the highest number that is complete is taken; of these, the one with the most epochs and iterations. Truncated
    or damaged files are passed over. Tensors are not loaded.

    Args:
        work_dir: The work folder of the run.
        checkpoint_hook: Config of its checkpoint hook.

    Returns:
        Its path, or None if there is none.

    Raises:
        InputError: The hook writes to another storage than the local disk, and there are checkpoints, or they cannot
            be listed.
    """
    backend_args = (checkpoint_hook or {}).get('backend_args')
    folder, templates = _folder_and_templates(work_dir, checkpoint_hook)
    if is_remote(folder, backend_args):
        _check_empty(folder, backend_args, templates)
        return None
    named, pointer = None, Path(work_dir, 'last_checkpoint')
    if pointer.is_file():
        named = _training_state(Path(pointer.read_text().strip()))
    found = [named] if named else []
    for template in templates:
        states = map(_training_state, _numbered(Path(folder), template))
        found += itertools.islice((state for state in states if state and _same_run(state, named)), 1)
    if not found:
        return None
    newest = max(found, key=lambda state: state.progress)
    if named and newest is not named:
        print_log(
            f'Resumed from {newest.path}, after iteration {newest.progress[1]}, though {pointer} names {named.path}, '
            f'after iteration {named.progress[1]}: if that is of a later run in the same folder, stop and give '
            f'--resume {named.path}',
            logger='current',
            level=logging.WARNING,
        )
    return newest.path


def note_earlier_run(work_dir: str, checkpoint_hook: dict | None = None) -> None:
    """Say in the log if a run that starts from the beginning finds the checkpoints of another in its folder.

    Args:
        work_dir: The work folder of the run.
        checkpoint_hook: Config of its checkpoint hook.
    """
    folder, templates = _folder_and_templates(work_dir, checkpoint_hook)
    if is_remote(folder, (checkpoint_hook or {}).get('backend_args')):
        return
    names = [path.name for template in templates for path in _numbered(Path(folder), template)]
    if names:
        print_log(
            f'{folder} holds {", ".join(names[:3])}{", ..." if len(names) > 3 else ""} of an earlier run, and this one '
            'starts from the beginning: it writes over files of the same name. Give --resume to go on from them, or '
            'another --work-dir to keep the runs apart',
            logger='current',
            level=logging.WARNING,
        )


def note_finished_training(checkpoint: dict, path: str, train_cfg: dict) -> None:
    """Say in the log if a checkpoint comes from the end of the training that is to go on from it.

    Args:
        checkpoint: Its content.
        path: Where it is from.
        train_cfg: Config of the training loop.
    """
    meta = checkpoint.get('meta') or {}
    for unit, option in (('epoch', 'max_epochs'), ('iter', 'max_iters')):
        done, end = meta.get(unit), train_cfg.get(option)
        if isinstance(done, int) and isinstance(end, int) and done >= end:
            print_log(
                f'{path} was saved after {unit} {done}, and the training ends at {end}: nothing is left to train; '
                f'raise it with --cfg-options train_cfg.{option}=N',
                logger='current',
                level=logging.WARNING,
            )


def _folder_and_templates(work_dir: str, checkpoint_hook: dict | None) -> tuple[str, Iterable[str]]:
    """Where a run's checkpoints lie, and how they are named."""
    hook = checkpoint_hook or {}
    folder = work_dir
    if hook.get('out_dir') and hook['out_dir'] != work_dir:
        # As MMEngine joins them.
        folder = f'{str(hook["out_dir"]).rstrip("/")}/{Path(work_dir).resolve().name}'
    return folder, dict.fromkeys(['iter_{}.pth', 'epoch_{}.pth', *filter(None, [hook.get('filename_tmpl')])])


class _TrainingState(NamedTuple):
    path: str
    progress: tuple[int, int]
    # Where the run believed to save it: a moved folder changes nothing about it.
    saved_into: str | None


def _training_state(path: Path) -> _TrainingState | None:
    """What a file says about the training that it belongs to, or None if training cannot go on from it."""
    try:
        checkpoint = load_checkpoint_file(str(path), mmap=True)
    except InputError as e:
        print_log(f'Not resumed from {e}', logger='current')
        return None
    meta = checkpoint.get('meta')
    progress = (meta.get('epoch'), meta.get('iter')) if isinstance(meta, dict) else (None, None)
    # Weights alone, such as those of the best checkpoint, are no state of a training.
    if 'optimizer' not in checkpoint or not all(isinstance(number, int) for number in progress):
        print_log(f'Not resumed from {path}: holds weights, but no state of a training', logger='current')
        return None
    hub = checkpoint.get('message_hub')
    info = hub.get('runtime_info') if isinstance(hub, dict) else None
    saved_as = info.get('last_ckpt') if isinstance(info, dict) else None
    return _TrainingState(str(path), progress, os.path.dirname(saved_as) if isinstance(saved_as, str) else None)


def _same_run(state: _TrainingState, named: _TrainingState | None) -> bool:
    if named is None or None in (state.saved_into, named.saved_into) or state.saved_into == named.saved_into:
        return True
    print_log(f'Not resumed from {state.path}: it was saved into {state.saved_into}, by another run', logger='current')
    return False


def _number(name: str, template: str) -> int | None:
    before, _, after = template.partition('{}')
    match = re.fullmatch(f'{re.escape(before)}([0-9]+){re.escape(after)}', name)
    return int(match[1]) if match else None


def _numbered(folder: Path, template: str) -> list[Path]:
    """Files whose names fit a template, the highest number first."""
    numbers = {path: _number(path.name, template) for path in folder.glob('*')}
    return sorted((path for path in numbers if numbers[path] is not None), key=numbers.get, reverse=True)


def _check_empty(folder: str, backend_args: dict | None, templates: Iterable[str]) -> None:
    remedy = 'name the file to go on from (--resume ADDRESS), or leave out --resume to start from the beginning'
    try:
        backend = get_file_backend(folder, backend_args=backend_args)
        names = list(backend.list_dir_or_file(folder, list_dir=False))
    except FileNotFoundError:
        return
    # A storage can fail in every way.
    except Exception as e:
        reason = ' '.join(f'{type(e).__name__}: {e}'.split())
        raise InputError(f'the checkpoints in {folder} cannot be listed ({reason}): {remedy}') from e
    if any(_number(name, template) is not None for name in names for template in templates):
        raise InputError(f'{folder} holds checkpoints, but the newest is looked for on local disks only: {remedy}')


def check_checkpoint_fits(checkpoint: dict, path: str, model: nn.Module) -> None:
    """Check that a checkpoint holds all weights of a model, which MMEngine only warns about.

    Args:
        checkpoint: Its content.
        path: Where it is from.
        model: The model that is to load it.

    Raises:
        InputError: Weights are missing or of another shape.
    """
    weights = {key.removeprefix('module.'): value for key, value in checkpoint.get('state_dict', checkpoint).items()}
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    expected = model.state_dict()
    missing = [key for key in expected if key not in weights and not key.endswith('num_batches_tracked')]
    if missing:
        raise InputError(
            f'{path}: does not belong to this model, it lacks {len(missing)} of its {len(expected)} weights '
            f'({missing[0]}, ...); give the checkpoint that was trained with this config'
        )
    for key, value in expected.items():
        if key in weights and weights[key].shape != value.shape:
            raise InputError(
                f'{path}: does not belong to this model, {key} has shape {tuple(weights[key].shape)} in the file and '
                f'{tuple(value.shape)} in the model; give the checkpoint that was trained with this config'
            )
