from .box_inst_loss import BoxInstLoss
from .smoothed_giou_loss import SmoothedGIoULoss

__all__ = ['BoxInstLoss', 'SmoothedGIoULoss']
