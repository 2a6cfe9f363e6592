from .paste_rle import paste_masks_as_rle
from .rle_masks import RLEMask, RLEMasks, place_rle

__all__ = ['RLEMask', 'RLEMasks', 'paste_masks_as_rle', 'place_rle']
