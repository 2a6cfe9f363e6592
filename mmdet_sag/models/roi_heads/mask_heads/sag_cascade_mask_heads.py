from mmdet.models.roi_heads.mask_heads import HTCMaskHead, SCNetMaskHead
from mmdet.registry import MODELS

from .sag_mask_head import SAGMaskHead


@MODELS.register_module()
class SAGHTCMaskHead(SAGMaskHead, HTCMaskHead):
    """:class:`SAGMaskHead` for HTC and DetectoRS-HTC: the next stage gets features after the spatial attention.

    Args:
        with_conv_res: As in ``HTCMaskHead``.
        *args: As in :class:`SAGMaskHead`.
        **kwargs: As in :class:`SAGMaskHead`.
    """


@MODELS.register_module()
class SAGSCNetMaskHead(SAGMaskHead, SCNetMaskHead):
    """:class:`SAGMaskHead` for SCNet: the spatial attention follows the residual blocks.

    Args:
        conv_to_res: As in ``SCNetMaskHead``.
        **kwargs: As in :class:`SAGMaskHead`.
    """
