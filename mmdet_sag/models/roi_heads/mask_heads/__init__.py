from .centermask_maskiou_head import CenterMaskIoUHead
from .sag_htc_mask_head import SAGHTCMaskHead
from .sag_mask_head import SAGMaskHead
from .sag_scnet_mask_head import SAGSCNetMaskHead

__all__ = ['CenterMaskIoUHead', 'SAGHTCMaskHead', 'SAGMaskHead', 'SAGSCNetMaskHead']
