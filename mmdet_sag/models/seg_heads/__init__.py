from .centermask_semantic_head import CenterMaskSemanticHead
from .panoptic_fusion_heads import CenterMaskFusionHead

__all__ = ['CenterMaskFusionHead', 'CenterMaskSemanticHead']
