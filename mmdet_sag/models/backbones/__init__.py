from .headless_mobilenet_v2 import HeadlessMobileNetV2
from .sa_unet import SAUNet
from .timm_backbone import TIMMBackbone
from .vovnet import VoVNet

__all__ = ['HeadlessMobileNetV2', 'SAUNet', 'TIMMBackbone', 'VoVNet']
