from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS

from .mask_head_mixins import MaskTargetMixin


@MODELS.register_module()
class BoxSupervisedFCNMaskHead(MaskTargetMixin, FCNMaskHead):
    """MMDetection's ``FCNMaskHead`` with the option ``loss_boxes``, for Mask R-CNN and whatever else has that head.

    To give the option to a subclass of that head, inherit from :class:`MaskTargetMixin`, which describes it, and the
    subclass.
    """
