from .centermask_maskiou_head import CenterMaskIoUHead
from .sag_cascade_mask_heads import SAGHTCMaskHead, SAGSCNetMaskHead
from .sag_mask_head import SAGMaskHead

__all__ = ['CenterMaskIoUHead', 'SAGHTCMaskHead', 'SAGMaskHead', 'SAGSCNetMaskHead']
