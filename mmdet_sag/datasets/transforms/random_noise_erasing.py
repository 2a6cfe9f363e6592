from collections.abc import Sequence

import torch
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from torchvision.transforms import RandomErasing


@TRANSFORMS.register_module()
class RandomNoiseErasing(BaseTransform):
    """Replaces a rectangle of an image by noise. Boxes and masks do not change.

    Area and aspect are drawn as in torchvision's ``RandomErasing``: ten tries for a rectangle smaller than the image.
    The noise is uniform in 0 to 255. MMDetection's ``RandomErasing`` also erases boxes and masks, and uses a constant.

    Required and modified keys: ``img``, shape (H, W, C), uint8.

    Args:
        prob: Probability that something is erased.
        area: Lowest and highest share of the image's area.
        aspect: Lowest and highest height over width, drawn log-uniformly.
    """

    def __init__(self, prob: float, area: Sequence[float], aspect: Sequence[float]) -> None:
        self.prob = prob
        self.area = tuple(area)
        self.aspect = tuple(aspect)

    def transform(self, results: dict) -> dict:
        """Erase in ``results['img']``."""
        if torch.rand(()) >= self.prob:
            return results
        height, width, channels = results['img'].shape
        # Of the image, torchvision reads only the shape.
        shape_only = torch.empty(1, 1, 1).expand(channels, height, width)
        top, left, rows, columns, _ = RandomErasing.get_params(shape_only, self.area, self.aspect, [0.0])
        if (rows, columns) == (height, width):
            return results
        noise = torch.randint(256, (rows, columns, channels), dtype=torch.uint8).numpy()
        results['img'] = results['img'].copy()
        results['img'][top : top + rows, left : left + columns] = noise
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob}, area={self.area}, aspect={self.aspect})'
