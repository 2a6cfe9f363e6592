import contextlib
import errno
import itertools
import logging
import math
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

from mmengine.fileio import LocalBackend, get_file_backend, register_backend
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import CheckpointLoader, Runner
from torch import nn

from ..checkpoints.reading import LOADS_SAFELY, read_weights
from ..errors import InputError
from ..fileio import atomic_write, is_remote

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Beside the checkpoints: the run that trains there now, or trained there last. Locked while it trains.
_RUN_FILE = '.run'
# In a group of parameters, what a changed learning rate changes in proportion.
_RATES = {'lr', 'initial_lr', 'max_lr', 'min_lr'}
# What an optimizer computes with rather than what it computes, and what changes as a schedule goes on.
_NO_SETTINGS = {'params', 'foreach', 'fused', 'capturable', 'differentiable', 'verbose', 'eta_max', 'base_values'}
_NO_SETTINGS |= {'last_step', 'best', 'num_bad_epochs', 'cooldown_counter', *_RATES}


class AtomicFileBackend(LocalBackend):
    """Local disk with atomic writes (:func:`atomic_write`), registered in MMEngine as ``atomic_file``."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file, whose folder is created if it does not exist."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        self.put(obj.encode(encoding), filepath)


register_backend('atomic_file', AtomicFileBackend)


def load_checkpoint_file(path: str, mmap: bool = False) -> dict:
    """Read a model's checkpoint, a file or an address that MMEngine can read (``https://...``), onto the CPU.

    With PyTorch 2.6 or newer, no code in the file is run. ``mmap`` leaves the tensors of a local file on the disk until
    they are used.
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
    """Check that a checkpoint, read from ``path``, holds all weights of a model. MMEngine only warns if not.

    A checkpoint that holds more is announced.
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
    """Find the newest checkpoint of a run from which training can continue, or None if there is none.

    Candidates are the file that ``last_checkpoint`` names, and for each name pattern of the run the complete file with
    the highest number that the same run saved: the last one that trained in the folder (:func:`enter_folder`) or, for
    files of earlier versions, one that saved into the same folder. The candidate with the most epochs and iterations is
    returned. Files that cannot be used are named and skipped. Tensors are not loaded. ``checkpoint_hook`` is the config
    of the run's checkpoint hook.

    Raises:
        InputError: There are checkpoints, and none can be used; or they cannot be listed, or are not on the local disk.
    """
    backend_args = (checkpoint_hook or {}).get('backend_args')
    folder, templates = _folder_and_templates(work_dir, checkpoint_hook)
    if is_remote(folder, backend_args):
        _check_empty(folder, backend_args, templates)
        return None
    failed, others = [], []
    run = _read_note(Path(folder, _RUN_FILE))

    def read(path: Path) -> _TrainingState | None:
        try:
            state = training_state(path)
        except InputError as e:
            failed.append(str(e))
            _warn(f'Not resumed from {e}')
            return None
        if run and state.run != run:
            others.append(state.path)
            return None
        return state

    pointer = Path(work_dir, 'last_checkpoint')
    path = _read_note(pointer)
    named = read(Path(path)) if path else None
    found = [named] if named else []
    for template in templates:
        states = filter(None, map(read, _numbered(Path(folder), template)))
        found += itertools.islice((state for state in states if _same_run(state, named)), 1)
    if found:
        newest = max(found, key=lambda state: state.progress)
        if named and newest is not named:
            _warn(
                f'Resumed from {newest.path}, after iteration {newest.progress[1]}, though {pointer} names '
                f'{named.path}, after iteration {named.progress[1]}: if that is a later run in the same folder, stop '
                f'and give --resume {named.path}'
            )
        return newest.path
    if failed:
        raise InputError(
            f'no checkpoint in {folder} can be used: {"; ".join(dict.fromkeys(failed))}. Name another file (--resume '
            'FILE), or leave out --resume to start from the beginning'
        )
    if others:
        _warn(
            f'The last run in {folder} saved no checkpoint: it starts from the beginning. To continue an earlier run '
            f'instead, stop and give --resume {others[0]}'
        )
    return None


def last_instead_of_worthless_best(path: str) -> tuple[str, str]:
    """Find what to use instead of a best checkpoint of a training whose AP was 0 at each validation.

    MMEngine then keeps the first one that it validated.

    Returns:
        The newest checkpoint beside it and the reason, or ``path`` and an empty text.
    """
    name = Path(path).name
    if is_remote(path) or not re.match('best_.*(AP|PQ)', name):
        return path, ''
    hub = load_checkpoint_file(path, mmap=True).get('message_hub')
    info = hub.get('runtime_info') if isinstance(hub, dict) else None
    # With several metrics, each has its own.
    scores = [
        score
        for key, score in (info if isinstance(info, dict) else {}).items()
        if key.startswith('best_score') and key.removeprefix('best_score').lstrip('_').replace('/', '_') in name
    ]
    if not scores or not all(isinstance(score, int | float) and score <= 0 for score in scores):
        return path, ''
    reason = f'the AP of {path} is 0, as at every validation of its training'
    newest = newest_checkpoint(str(Path(path).parent))
    if newest is None:
        _warn(f'{reason}, and there is no other checkpoint beside it')
        return path, ''
    _warn(f'{reason}: the last checkpoint, {newest}, is taken instead')
    return newest, reason


def enter_folder(folder: str, run: str | None) -> IO[str]:
    """Mark a local folder, which is created if needed, as that of the run that trains in it now.

    ``run`` is the run's identity, if it is known, which its checkpoints hold as ``run`` of the runtime information. As
    long as the returned file is open in this process, other processes cannot enter the folder, if the file system has
    locks.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        file = Path(folder, _RUN_FILE).open('a')  # noqa: SIM115
    except OSError as e:
        raise InputError(f'{folder} cannot be written to ({e.strerror}): give another --work-dir') from e
    try:
        if fcntl is not None:
            # Not flock: forked workers would inherit it, and outlive a killed process for some seconds.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        # Others mean that there are no locks.
        if e.errno in (errno.EAGAIN, errno.EACCES):
            raise InputError(
                f'another process is training in {folder}: give another --work-dir, or wait until it has ended'
            ) from e
    # On a full disk the run stays unknown.
    with contextlib.suppress(OSError):
        file.truncate(0)
        file.write(run or '')
        file.flush()
    return file


def note_earlier_run(work_dir: str, checkpoint_hook: dict | None = None) -> None:
    """Warn if a run that starts from the beginning finds checkpoints of another run in its folder."""
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
    """Warn if a checkpoint, read from ``path``, was saved at the end of the training that is to be resumed."""
    meta = checkpoint.get('meta') or {}
    for unit, option in (('epoch', 'max_epochs'), ('iter', 'max_iters')):
        done, end = meta.get(unit), train_cfg.get(option)
        if isinstance(done, int) and isinstance(end, int) and done >= end:
            _warn(
                f'{path} was saved after {unit} {done}, and the training ends at {end}: nothing is left to train; '
                f'raise it with --cfg-options train_cfg.{option}=N'
            )


def apply_settings(runner: Runner, checkpoint: dict, path: str) -> None:
    """Prepare a checkpoint, read from ``path``, for a run whose config has changed, and say what differs.

    A changed learning rate takes effect at its place in the schedule: the rates of optimizer and schedule in the
    checkpoint, which is changed in place, are multiplied. Everything else stays as it was saved.

    Raises:
        InputError: The optimizer has other groups of parameters.
    """
    optimizer, schedules = checkpoint.get('optimizer'), checkpoint.get('param_schedulers')
    if not optimizer or runner.optim_wrapper is None:
        return
    if isinstance(runner.optim_wrapper, OptimWrapperDict):
        ours, theirs = runner.param_schedulers or {}, schedules or {}
        parts = [
            (f'{name}.', wrapper, optimizer[name], ours.get(name), theirs.get(name))
            for name, wrapper in runner.optim_wrapper.items()
        ]
    else:
        parts = [('', runner.optim_wrapper, optimizer, runner.param_schedulers, schedules)]
    changes, differences = {}, {}
    for name, wrapper, saved, schedulers, states in parts:
        # MMEngine keeps the settings without factors of single parameters as one more group.
        groups = [*saved['param_groups'], *filter(None, [saved.get('base_param_settings')])]
        ours = wrapper.param_groups
        if [len(group['params']) for group in groups] != [len(group['params']) for group in ours]:
            raise InputError(
                f'{path} was trained with other groups of parameters ({name}optimizer, or other layers were frozen): '
                'use that config, or start from its weights (--cfg-options load_from=FILE without --resume)'
            )
        factors = []
        for old, new in zip(groups, ours):
            was, now = (float(group.get('initial_lr', group['lr'])) for group in (old, new))
            factors.append(1.0 if not was or math.isclose(was, now) else now / was)
            for key in _RATES & old.keys() if factors[-1] != 1 else ():
                old[key] = old[key] * factors[-1]
            if factors[-1] != 1:
                changes[f'from {was:g} to {now:g}'] = None
            differences.update(_differences(f'{name}optimizer.', _settings(old), _settings(new)))
        ours, states = [scheduler.state_dict() for scheduler in schedulers or []], states or []
        if len(ours) != len(states):
            differences[f'{name}param_scheduler: {len(ours)} schedules, {len(states)} in the checkpoint'] = None
        for index, (new, old) in enumerate(zip(ours, states)):
            if old.get('param_name') == 'lr':
                for key in {'base_values', '_last_value'} & old.keys():
                    old[key] = [value * factor for value, factor in zip(old[key], factors)]
            differences.update(_differences(f'{name}param_scheduler[{index}].', old, new))
    if changes:
        _warn(
            f'The learning rate changes {", ".join(changes)}, with respect to {path}: its value at each point of the '
            'schedule changes in proportion'
        )
    if differences:
        _warn(
            f'The config differs from {path}, whose values stay in force: {"; ".join(differences)}. To use those of '
            f'the config, start from its weights: --cfg-options load_from={shlex.quote(str(path))} without --resume'
        )


def _settings(group: dict) -> dict:
    """Settings of a group of parameters at the beginning of the schedule."""
    scheduled = {key for key in group if f'initial_{key}' in group}
    if 'momentum' in scheduled:
        scheduled.add('betas')
    return {key: value for key, value in group.items() if key not in scheduled}


def _differences(prefix: str, old: dict, new: dict) -> dict[str, None]:
    """Settings whose values differ, as an ordered set of texts."""
    different = {}
    for key in sorted(old.keys() | new.keys()):
        if key in _NO_SETTINGS or key.startswith('_') or callable(new.get(key)):
            continue
        if key not in old or key not in new:
            # Another class, or another version of it.
            different[f'{prefix}{key} is only in the {"config" if key in new else "checkpoint"}'] = None
        elif repr(old[key]) != repr(new[key]):
            different[f'{prefix}{key} is {new[key]!r}, {old[key]!r} in the checkpoint'] = None
    return different


class _TrainingState(NamedTuple):
    path: str
    progress: tuple[int, int]
    # The folder at the time of saving: the run may have been moved since.
    saved_into: str | None
    run: str | None


def training_state(path: Path) -> _TrainingState:
    """Read which training a file belongs to, as ``--resume`` does."""
    checkpoint = load_checkpoint_file(str(path), mmap=True)
    meta = checkpoint.get('meta')
    progress = (meta.get('epoch'), meta.get('iter')) if isinstance(meta, dict) else (None, None)
    # The best checkpoint, for example, has weights only.
    if 'optimizer' not in checkpoint or not all(isinstance(number, int) for number in progress):
        raise InputError(f'{path}: has weights, but no training state')
    hub = checkpoint.get('message_hub')
    info = hub.get('runtime_info') if isinstance(hub, dict) else None
    saved_as, run = (info.get('last_ckpt'), info.get('run')) if isinstance(info, dict) else (None, None)
    return _TrainingState(str(path), progress, os.path.dirname(saved_as) if isinstance(saved_as, str) else None, run)


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
    try:
        numbers = {folder / name: _number(name, template) for name in os.listdir(folder)}
    except FileNotFoundError:
        return []
    except OSError as e:
        raise _unreadable(folder, e) from e
    return sorted((path for path in numbers if numbers[path] is not None), key=numbers.get, reverse=True)


def _read_note(path: Path) -> str | None:
    """Text of a small file, if there is one."""
    try:
        return path.read_text(errors='replace').replace('\0', '').strip() or None
    except FileNotFoundError:
        return None
    except OSError as e:
        raise _unreadable(path, e) from e


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f'{path} cannot be read ({error.strerror}), so the newest checkpoint is unknown: mend that first')


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
