from .converting import Conversion, convert_checkpoint
from .reading import read_checkpoint

__all__ = ['Conversion', 'convert_checkpoint', 'read_checkpoint']
