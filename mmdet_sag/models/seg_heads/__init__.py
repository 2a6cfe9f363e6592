from .centermask_fusion_head import CenterMaskFusionHead
from .centermask_semantic_head import CenterMaskSemanticHead

__all__ = ['CenterMaskFusionHead', 'CenterMaskSemanticHead']
