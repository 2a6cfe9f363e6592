from .box_supervised_fcn_mask_head import BoxSupervisedFCNMaskHead
from .centermask_maskiou_head import CenterMaskIoUHead
from .sag_mask_head import SAGHTCMaskHead, SAGMaskHead, SAGSCNetMaskHead

__all__ = ['BoxSupervisedFCNMaskHead', 'CenterMaskIoUHead', 'SAGHTCMaskHead', 'SAGMaskHead', 'SAGSCNetMaskHead']
