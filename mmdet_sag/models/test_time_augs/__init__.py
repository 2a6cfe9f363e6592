from .centermask_tta import CenterMaskTTAModel
from .panoptic_centermask_tta import PanopticCenterMaskTTAModel

__all__ = ['CenterMaskTTAModel', 'PanopticCenterMaskTTAModel']
