from .binary_seg_tta import BinarySegTTAModel
from .mask_tta import CenterMaskTTAModel, MaskTTAModel, PanopticCenterMaskTTAModel, TwoStageMaskTTAModel

__all__ = [
    'BinarySegTTAModel',
    'CenterMaskTTAModel',
    'MaskTTAModel',
    'PanopticCenterMaskTTAModel',
    'TwoStageMaskTTAModel',
]
