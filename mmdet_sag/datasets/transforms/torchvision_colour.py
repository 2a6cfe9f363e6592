from typing import Any

import numpy as np
import torch
import torchvision.transforms
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS

from ...errors import InputError

# They change only colours: boxes and masks stay valid.
_NAMES = (
    'ColorJitter',
    'GaussianBlur',
    'RandomAdjustSharpness',
    'RandomAutocontrast',
    'RandomEqualize',
    'RandomGrayscale',
    'RandomInvert',
    'RandomPosterize',
    'RandomSolarize',
)


@TRANSFORMS.register_module()
class TorchvisionColour(BaseTransform):
    """Applies a colour transform of torchvision to a BGR image.

    Required and modified keys: ``img``, shape (H, W, 3), uint8.

    Args:
        name: Name of a class of ``torchvision.transforms`` that changes only colours.
        **kwargs: Its arguments.

    Raises:
        InputError: The class is another one, or does not take the arguments.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        if name not in _NAMES:
            raise InputError(f"TorchvisionColour.name: '{name}' is not one of {', '.join(_NAMES)}")
        try:
            self.torchvision_transform = getattr(torchvision.transforms, name)(**kwargs)
        except (TypeError, ValueError) as error:
            raise InputError(f'TorchvisionColour: {name} does not take these arguments: {error}') from error

    def transform(self, results: dict) -> dict:
        """Change the colours of ``results['img']``."""
        rgb = np.ascontiguousarray(results['img'][..., ::-1].transpose(2, 0, 1))
        changed = self.torchvision_transform(torch.from_numpy(rgb)).numpy()
        results['img'] = np.ascontiguousarray(changed.transpose(1, 2, 0)[..., ::-1])
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.torchvision_transform})'
