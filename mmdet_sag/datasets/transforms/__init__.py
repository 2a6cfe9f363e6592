from .load_instances_and_panoptic_seg import LoadInstancesAndPanopticSeg
from .random_center_crop_pad_with_masks import RandomCenterCropPadWithMasks
from .random_noise_erasing import RandomNoiseErasing
from .short_side_resize import ShortSideResize
from .torchvision_colour import TorchvisionColour

__all__ = [
    'LoadInstancesAndPanopticSeg',
    'RandomCenterCropPadWithMasks',
    'RandomNoiseErasing',
    'ShortSideResize',
    'TorchvisionColour',
]
