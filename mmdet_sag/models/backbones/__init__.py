from .headless_mobilenet_v2 import HeadlessMobileNetV2
from .timm_backbone import TIMMBackbone
from .vovnet import VoVNet

__all__ = ['HeadlessMobileNetV2', 'TIMMBackbone', 'VoVNet']
