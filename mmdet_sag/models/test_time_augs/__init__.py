from .mask_tta import CenterMaskTTAModel, MaskTTAModel, PanopticCenterMaskTTAModel, TwoStageMaskTTAModel

__all__ = ['CenterMaskTTAModel', 'MaskTTAModel', 'PanopticCenterMaskTTAModel', 'TwoStageMaskTTAModel']
