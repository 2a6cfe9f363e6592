from .centermask_tta import CenterMaskTTAModel, PanopticCenterMaskTTAModel
from .mask_tta import MaskTTAModel, TwoStageMaskTTAModel

__all__ = ['CenterMaskTTAModel', 'MaskTTAModel', 'PanopticCenterMaskTTAModel', 'TwoStageMaskTTAModel']
