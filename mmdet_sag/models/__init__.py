from .backbones import *
from .dense_heads import *
from .detectors import *
from .layers import *
from .losses import *
from .roi_heads import *
from .seg_heads import *
from .test_time_augs import *
