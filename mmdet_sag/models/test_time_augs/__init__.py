from .centermask_tta import CenterMaskTTAModel
from .mask_tta import MaskTTAModel
from .panoptic_centermask_tta import PanopticCenterMaskTTAModel
from .two_stage_mask_tta import TwoStageMaskTTAModel

__all__ = ['CenterMaskTTAModel', 'MaskTTAModel', 'PanopticCenterMaskTTAModel', 'TwoStageMaskTTAModel']
