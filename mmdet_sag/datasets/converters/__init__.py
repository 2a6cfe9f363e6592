from .label_conversion import FORMATS, LabelConversion
from .labelled_data import ReadOptions

__all__ = ['FORMATS', 'LabelConversion', 'ReadOptions']
