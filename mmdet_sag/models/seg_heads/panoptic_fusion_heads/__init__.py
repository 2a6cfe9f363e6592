from .centermask_fusion_head import CenterMaskFusionHead

__all__ = ['CenterMaskFusionHead']
