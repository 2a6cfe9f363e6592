from .centermask_roi_head import CenterMaskRoIHead
from .mask_heads import *
from .roi_extractors import *
