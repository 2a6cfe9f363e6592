from mmdet.models.roi_heads.mask_heads import HTCMaskHead
from mmdet.registry import MODELS

from .sag_mask_head import SAGMaskHead


@MODELS.register_module()
class SAGHTCMaskHead(SAGMaskHead, HTCMaskHead):
    """:class:`SAGMaskHead` for HTC and DetectoRS-HTC: what the next stage gets has passed the spatial attention.

    Args:
        with_conv_res: As in ``HTCMaskHead``.
        *args: As in :class:`SAGMaskHead`.
        **kwargs: As in :class:`SAGMaskHead`.
    """
