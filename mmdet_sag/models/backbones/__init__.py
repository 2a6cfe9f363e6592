from .headless_mobilenet_v2 import HeadlessMobileNetV2
from .vovnet import VoVNet

__all__ = ['HeadlessMobileNetV2', 'VoVNet']
