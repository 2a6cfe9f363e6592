from .conversion import Conversion
from .label_format import FORMATS
from .read_options import ReadOptions

__all__ = ['FORMATS', 'Conversion', 'ReadOptions']
