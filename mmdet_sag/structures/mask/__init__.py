from .paste_rle import paste_masks_as_rle, paste_masks_of_images
from .rle_masks import RLEMask, RLEMasks, place_rle

__all__ = ['RLEMask', 'RLEMasks', 'paste_masks_as_rle', 'paste_masks_of_images', 'place_rle']
