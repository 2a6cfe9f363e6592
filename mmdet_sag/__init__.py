"""SAG-Mask and the CenterMask family for MMDetection: importing this package registers everything."""

from . import engine, evaluation, models
from .version import __version__

engine.allow_mmengine_checkpoints()

__all__ = ['__version__', 'engine', 'evaluation', 'models']
