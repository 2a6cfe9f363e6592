from mmdet.models.roi_heads.mask_heads import SCNetMaskHead
from mmdet.registry import MODELS

from .sag_mask_head import SAGMaskHead


@MODELS.register_module()
class SAGSCNetMaskHead(SAGMaskHead, SCNetMaskHead):
    """:class:`SAGMaskHead` for SCNet: the spatial attention follows the residual blocks.

    Args:
        conv_to_res: As in ``SCNetMaskHead``.
        **kwargs: As in :class:`SAGMaskHead`.
    """
