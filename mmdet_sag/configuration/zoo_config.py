"""The configs of the zoo by short names."""

import difflib
from pathlib import Path

from ..checkpoints.zoo import config_root
from ..errors import InputError

_FOLDERS = ('centermask_lite', 'centermask', 'centermask_first', 'sag_mask')
_PANOPTIC = 'panoptic_centermask'


def zoo_configs() -> dict[str, Path]:
    """Paths of the configs of instance models, trained on COCO, by their names."""
    root = config_root()
    paths = (path for folder in _FOLDERS for path in sorted((root / folder).glob('*_coco.py')))
    return {path.stem: path for path in paths}


def find_zoo_config(model: str) -> Path:
    """Find a config by its name or the start of it, such as ``centermask-lite_v39``.

    Of several schedules of a model the longest is taken.

    Raises:
        InputError: There is none, or there are several of different models.
    """
    configs = zoo_configs()
    name = Path(model).name.removesuffix('.py')
    if name in configs:
        return configs[name]
    found = [stem for stem in configs if stem.startswith(f'{name}_')]
    if found:
        models = {stem.split('_fpn_')[0] for stem in found}
        if len(models) == 1:
            return configs[max(found)]
        raise InputError(f"--model '{model}' may be {', '.join(sorted(models))}: give one of them")
    root = config_root()
    if 'panoptic' in name:
        panoptic = sorted((root / _PANOPTIC).glob('*.py'))
        raise InputError(
            f"--model '{model}': the {len(panoptic)} panoptic models need stuff annotations, which to_coco.py does not "
            'make: take an instance model, such as centermask_v39, or see docs/datasets.md for a config by hand'
        )
    shown = list(dict.fromkeys(stem.split('_fpn_')[0] for stem in configs))
    close = difflib.get_close_matches(name, shown, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else 'take one of them'
    raise InputError(f"--model '{model}' is not in the zoo ({', '.join(shown)}): {hint}")
