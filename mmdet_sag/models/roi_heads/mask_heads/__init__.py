from .centermask_maskiou_head import CenterMaskIoUHead
from .sag_mask_head import SAGHTCMaskHead, SAGMaskHead, SAGSCNetMaskHead

__all__ = ['CenterMaskIoUHead', 'SAGHTCMaskHead', 'SAGMaskHead', 'SAGSCNetMaskHead']
