from .copy_paste_with_polygons import CopyPasteWithPolygons
from .fit_resize import FitResize
from .load_instances_and_panoptic_seg import LoadInstancesAndPanopticSeg
from .load_mask_or_box_annotations import LoadMaskOrBoxAnnotations
from .random_center_crop_pad_with_masks import RandomCenterCropPadWithMasks
from .random_noise_erasing import RandomNoiseErasing
from .short_side_resize import ShortSideResize
from .torchvision_colour import TorchvisionColour

__all__ = [
    'CopyPasteWithPolygons',
    'FitResize',
    'LoadInstancesAndPanopticSeg',
    'LoadMaskOrBoxAnnotations',
    'RandomCenterCropPadWithMasks',
    'RandomNoiseErasing',
    'ShortSideResize',
    'TorchvisionColour',
]
