from mmdet.models.detectors import CenterNet
from mmdet.registry import MODELS


@MODELS.register_module()
class PointCenterMask(CenterNet):
    """The other CenterMask: CenterNet with masks from a local shape and a global saliency map.

    It shares the name with :class:`CenterMask`, not the attention. With a :class:`PointCenterMaskHead`, it has no
    RoIAlign and no NMS, so that it runs where these do not. With a :class:`PointCenterMaskFCOSHead`, it is FCOS with
    such masks. Arguments are those of ``CenterNet``.

    Source: `CenterMask: Single Shot Instance Segmentation with Point Representation
    <https://arxiv.org/abs/2004.04446>`_.
    """
