from .centermask_tta import CenterMaskTTAModel, PanopticCenterMaskTTAModel
from .mask_tta import MaskTTAModel
from .two_stage_mask_tta import TwoStageMaskTTAModel

__all__ = ['CenterMaskTTAModel', 'MaskTTAModel', 'PanopticCenterMaskTTAModel', 'TwoStageMaskTTAModel']
