"""SAG-Mask and the CenterMask family for MMDetection: importing this package registers everything."""

from .operators import check_operators

check_operators()

from . import cpu, datasets, engine, evaluation, models, visualization  # noqa: E402
from .checkpoints.loaders import register_loaders  # noqa: E402
from .version import __version__  # noqa: E402

engine.allow_mmengine_checkpoints()
register_loaders()

__all__ = ['__version__', 'cpu', 'datasets', 'engine', 'evaluation', 'models', 'visualization']
