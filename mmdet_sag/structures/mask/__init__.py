from .paste_rle import paste_masks_as_rle
from .rle_masks import RLEMask, RLEMasks

__all__ = ['RLEMask', 'RLEMasks', 'paste_masks_as_rle']
