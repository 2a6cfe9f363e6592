"""SAG-Mask and the CenterMask family for MMDetection: importing this package registers everything."""

from . import models
from .version import __version__

__all__ = ['__version__', 'models']
