import itertools
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.fileio import get_file_backend
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import CheckpointLoader
from torch import nn

from ..checkpoints.allowed_calls import ALLOWED_CALLS
from ..checkpoints.reading import LOADS_SAFELY, read_weights
from ..errors import InputError
from ..fileio import is_remote


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load`` read MMEngine's checkpoints with safe loading.

    Besides tensors, they contain the run's log (:class:`mmengine.logging.HistoryBuffer`) and NumPy numbers. These are
    read by stand-ins that check their input, so files gain no other ability. Before PyTorch 2.6, which does not load
    safely by default, this does nothing.
    """
    if LOADS_SAFELY:
        torch.serialization.add_safe_globals([(call, name) for name, call in ALLOWED_CALLS.items()])


def load_checkpoint_file(path: str, mmap: bool = False) -> dict:
    """Read a model's checkpoint onto the CPU.

    With PyTorch 2.6 or newer, no code in the file is run.

    Args:
        path: Path of the file, or an address that MMEngine can read (``https://...``).
        mmap: Leave the tensors of a local file on the disk until they are used.

    Raises:
        InputError: The file does not exist, or is not a complete checkpoint.
    """
    if is_remote(path) or (not LOADS_SAFELY and Path(path).is_file()):
        try:
            checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
        except InputError:
            raise
        # A name that is not in a zoo, or a storage whose package is missing.
        except Exception as e:
            reason = ' '.join(f'{type(e).__name__}: {e}'.split())
            raise InputError(f'{path}: cannot be loaded ({reason}); check it, or give the path of a file') from e
    else:
        checkpoint = read_weights(Path(path), mmap)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get('state_dict', checkpoint), dict):
        raise InputError(f'{path}: holds no state_dict; give a checkpoint of a model')
    return checkpoint


def check_checkpoint_fits(checkpoint: dict, path: str, model: nn.Module) -> None:
    """Check that a checkpoint holds all weights of a model. MMEngine only warns if it does not.

    A checkpoint that holds more is announced.

    Args:
        checkpoint: Its content.
        path: Its path, for the message.
        model: The model that will load it.

    Raises:
        InputError: Weights are missing or have another shape.
    """
    weights = {key.removeprefix('module.'): value for key, value in checkpoint.get('state_dict', checkpoint).items()}
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    expected = model.state_dict()
    missing = [key for key in expected if key not in weights and not key.endswith('num_batches_tracked')]
    different = [key for key in expected if key in weights and weights[key].shape != expected[key].shape]
    if missing:
        reason = f'it lacks {len(missing)} of its {len(expected)} weights ({missing[0]}, ...)'
    elif different:
        ours, theirs = (tuple(values[different[0]].shape) for values in (expected, weights))
        reason = f'{different[0]} has shape {theirs} in the file and {ours} in the model'
    else:
        surplus = [key for key in weights if key not in expected and not key.endswith('num_batches_tracked')]
        if surplus:
            _warn(f'{path} holds {len(surplus)} weights that the model has not ({surplus[0]}, ...): they are not used')
        return
    raise InputError(
        f'{path}: does not belong to this model, {reason}; give the checkpoint that was trained with this config'
    )


def newest_checkpoint(work_dir: str, checkpoint_hook: dict | None = None) -> str | None:
    """Find the newest checkpoint of a run from which training can continue.

    Candidates are the file that ``last_checkpoint`` names, and for each name pattern of the run the complete file with
    the highest number that was saved into the same folder as that file. The candidate with the most epochs and
    iterations is returned. Damaged files are skipped. Tensors are not loaded.

    Args:
        work_dir: The work folder of the run.
        checkpoint_hook: Config of its checkpoint hook.

    Returns:
        Path of the checkpoint, or None if there is none.

    Raises:
        InputError: The hook does not write to the local disk, and there are checkpoints, or they cannot be listed.
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
        states = filter(None, map(_training_state, _numbered(Path(folder), template)))
        found += itertools.islice((state for state in states if _same_run(state, named)), 1)
    if not found:
        return None
    newest = max(found, key=lambda state: state.progress)
    if named and newest is not named:
        _warn(
            f'Resumed from {newest.path}, after iteration {newest.progress[1]}, though {pointer} names {named.path}, '
            f'after iteration {named.progress[1]}: if that is a later run in the same folder, stop and give '
            f'--resume {named.path}'
        )
    return newest.path


def note_earlier_run(work_dir: str, checkpoint_hook: dict | None = None) -> None:
    """Warn if a run that starts from the beginning finds checkpoints of another run in its folder.

    Args:
        work_dir: The work folder of the run.
        checkpoint_hook: Config of its checkpoint hook.
    """
    folder, templates = _folder_and_templates(work_dir, checkpoint_hook)
    if is_remote(folder, (checkpoint_hook or {}).get('backend_args')):
        return
    names = [path.name for template in templates for path in _numbered(Path(folder), template)]
    if names:
        _warn(
            f'{folder} holds {", ".join(names[:3])}{", ..." if len(names) > 3 else ""} of an earlier run, and this one '
            'starts from the beginning: it overwrites files of the same name. Give --resume to continue from them, or '
            'another --work-dir to keep the runs apart'
        )


def note_finished_training(checkpoint: dict, path: str, train_cfg: dict) -> None:
    """Warn if a checkpoint was saved at the end of the training that is to be resumed.

    Args:
        checkpoint: Its content.
        path: Its path, for the message.
        train_cfg: Config of the training loop.
    """
    meta = checkpoint.get('meta') or {}
    for unit, option in (('epoch', 'max_epochs'), ('iter', 'max_iters')):
        done, end = meta.get(unit), train_cfg.get(option)
        if isinstance(done, int) and isinstance(end, int) and done >= end:
            _warn(
                f'{path} was saved after {unit} {done}, and the training ends at {end}: nothing is left to train; '
                f'raise it with --cfg-options train_cfg.{option}=N'
            )


class _TrainingState(NamedTuple):
    path: str
    progress: tuple[int, int]
    # The folder at the time of saving: the run may have been moved since.
    saved_into: str | None


def _training_state(path: Path) -> _TrainingState | None:
    """Read which training a file belongs to. None: training cannot continue from it."""
    try:
        checkpoint = load_checkpoint_file(str(path), mmap=True)
    except InputError as e:
        print_log(f'Not resumed from {e}', logger='current')
        return None
    meta = checkpoint.get('meta')
    progress = (meta.get('epoch'), meta.get('iter')) if isinstance(meta, dict) else (None, None)
    # The best checkpoint, for example, has weights only.
    if 'optimizer' not in checkpoint or not all(isinstance(number, int) for number in progress):
        print_log(f'Not resumed from {path}: it has weights, but no training state', logger='current')
        return None
    hub = checkpoint.get('message_hub')
    info = hub.get('runtime_info') if isinstance(hub, dict) else None
    saved_as = info.get('last_ckpt') if isinstance(info, dict) else None
    return _TrainingState(str(path), progress, os.path.dirname(saved_as) if isinstance(saved_as, str) else None)


def _same_run(state: _TrainingState, named: _TrainingState | None) -> bool:
    if named is None or None in (state.saved_into, named.saved_into) or state.saved_into == named.saved_into:
        return True
    print_log(f'Not resumed from {state.path}: another run saved it into {state.saved_into}', logger='current')
    return False


def _folder_and_templates(work_dir: str, checkpoint_hook: dict | None) -> tuple[str, Iterable[str]]:
    """The folder of a run's checkpoints, and the patterns of their names."""
    hook = checkpoint_hook or {}
    folder = work_dir
    if hook.get('out_dir') and hook['out_dir'] != work_dir:
        # As MMEngine joins them.
        folder = f'{str(hook["out_dir"]).rstrip("/")}/{Path(work_dir).resolve().name}'
    return folder, dict.fromkeys(['iter_{}.pth', 'epoch_{}.pth', *filter(None, [hook.get('filename_tmpl')])])


def _number(name: str, template: str) -> int | None:
    match = re.fullmatch(re.escape(template).replace(r'\{\}', '([0-9]+)'), name)
    return int(match[1]) if match else None


def _numbered(folder: Path, template: str) -> list[Path]:
    """Files whose names match a pattern, the highest number first."""
    numbers = {path: _number(path.name, template) for path in folder.glob('*')}
    return sorted((path for path in numbers if numbers[path] is not None), key=numbers.get, reverse=True)


def _check_empty(folder: str, backend_args: dict | None, templates: Iterable[str]) -> None:
    remedy = 'name the file to continue from (--resume ADDRESS), or leave out --resume to start from the beginning'
    try:
        backend = get_file_backend(folder, backend_args=backend_args)
        names = list(backend.list_dir_or_file(folder, list_dir=False))
    except FileNotFoundError:
        return
    # A storage may raise anything.
    except Exception as e:
        reason = ' '.join(f'{type(e).__name__}: {e}'.split())
        raise InputError(f'the checkpoints in {folder} cannot be listed ({reason}): {remedy}') from e
    if any(_number(name, template) is not None for name in names for template in templates):
        raise InputError(f'{folder} holds checkpoints, but only local folders are searched for the newest: {remedy}')


def _warn(message: str) -> None:
    print_log(message, logger='current', level=logging.WARNING)
