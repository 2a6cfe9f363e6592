from .batch_norm_folding import fold_batch_norms
from .spatial_attention import SpatialAttention

__all__ = ['SpatialAttention', 'fold_batch_norms']
