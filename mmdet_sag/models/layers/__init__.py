from .bagged_roi_align import bagged_roi_align
from .frozen_batch_norm import FrozenBatchNorm
from .plain_cpu import is_cpu_inference, is_plain_cpu
from .spatial_attention import SpatialAttention
from .winograd_conv import WinogradConv

__all__ = [
    'FrozenBatchNorm',
    'SpatialAttention',
    'WinogradConv',
    'bagged_roi_align',
    'is_cpu_inference',
    'is_plain_cpu',
]
