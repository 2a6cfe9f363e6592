from .checkpoint_files import allow_mmengine_checkpoints
from .hooks import *
from .runner import *

__all__ = ['allow_mmengine_checkpoints']
