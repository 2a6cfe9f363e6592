from pathlib import Path
from typing import Optional

from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import CheckpointLoader
from torch import nn

from ..checkpoints.reading import read_weights
from ..errors import InputError
from .safe_globals import LOADS_SAFELY


def load_checkpoint_file(path: str) -> dict:
    """Read a model's checkpoint onto the CPU.

    With PyTorch 2.6 or newer, no code in the file is run.

    Args:
        path: Path of the file, or an address as MMEngine knows them (``https://...``).

    Raises:
        InputError: There is no such file, or it is not a whole checkpoint.
    """
    if '://' in path:
        return CheckpointLoader.load_checkpoint(path, map_location='cpu')
    if LOADS_SAFELY or not Path(path).is_file():
        checkpoint = read_weights(Path(path))
    else:
        # MMEngine will load it like this, and PyTorch's safe loading knows nothing of MMEngine yet.
        try:
            checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
        except Exception as e:
            raise InputError(f'{path}: is damaged, truncated or no checkpoint at all; get the file again') from e
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get('state_dict', checkpoint), dict):
        raise InputError(f'{path}: holds no state_dict; give a checkpoint of a model')
    return checkpoint


def newest_whole_checkpoint(work_dir: str) -> Optional[str]:
    """Find the checkpoint of a work folder with the most iterations from which training can go on.

    Files that are cut off or damaged are passed over, whatever ``last_checkpoint`` says.

    Args:
        work_dir: The work folder of a run.

    Returns:
        Its path, or None if there is none.
    """
    folders = {Path(work_dir)}
    pointer = Path(work_dir, 'last_checkpoint')
    if pointer.is_file():
        # CheckpointHook may have been told to write elsewhere.
        folders.add(Path(pointer.read_text().strip()).parent)
    done = {}
    for path in (path for folder in folders for path in folder.glob('*.pth')):
        try:
            checkpoint = load_checkpoint_file(str(path))
        except InputError as e:
            print_log(f'Not resumed from {e}', logger='current')
            continue
        # Weights alone, such as those of the best checkpoint, are no state of a training.
        if 'optimizer' in checkpoint:
            done[str(path)] = checkpoint['meta']['iter']
    return max(done, key=done.get, default=None)


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
