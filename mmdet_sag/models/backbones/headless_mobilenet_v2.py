from mmdet.models.backbones import MobileNetV2
from mmdet.registry import MODELS


@MODELS.register_module()
class HeadlessMobileNetV2(MobileNetV2):
    """MobileNetV2 without the 1280-channel conv that only a classifier uses.

    CenterMask-Lite reads strides 8, 16 and 32 (32, 96 and 320 channels), so that conv would be a parameter that no
    loss reaches. Arguments are those of :class:`mmdet.models.backbones.MobileNetV2`, without index 7.
    """

    def __init__(self, out_indices: tuple[int, ...] = (2, 4, 6), **kwargs) -> None:
        super().__init__(out_indices=out_indices, **kwargs)
        del self.conv2
        self.layers.remove('conv2')
