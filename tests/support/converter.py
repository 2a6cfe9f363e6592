"""The modules of the checkpoint converter, which lie beside its command line."""

import sys
from pathlib import Path
from typing import Any

CONVERTERS = Path(__file__).parents[2] / 'tools/model_converters'
sys.path.insert(0, str(CONVERTERS))

import centermask_names  # noqa: E402
import checkpoint_conversion  # noqa: E402
import known_models  # noqa: E402
import timm_vovnet  # noqa: E402
from detectron2_pickle import read_pickle  # noqa: E402

from mmdet_sag.checkpoints.reading import read_weights  # noqa: E402

__all__ = ['CONVERTERS', 'centermask_names', 'checkpoint_conversion', 'known_models', 'read_any_weights', 'timm_vovnet']


def read_any_weights(path: Path) -> Any:
    """Read a file of weights as the converter does, pickles of arrays included."""
    return read_weights(path, read_pickle=read_pickle)
