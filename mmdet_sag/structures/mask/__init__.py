from .paste_rle import paste_masks_as_rle, paste_masks_of_images
from .rle_masks import RLEMask, RLEMasks, place_rle
from .tensor_masks import TensorMasks

__all__ = ['RLEMask', 'RLEMasks', 'TensorMasks', 'paste_masks_as_rle', 'paste_masks_of_images', 'place_rle']
