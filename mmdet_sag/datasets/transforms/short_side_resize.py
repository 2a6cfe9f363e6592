from collections.abc import Sequence

from mmdet.datasets.transforms import Resize
from mmdet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class ShortSideResize(Resize):
    """Resizes to an exact short side and keeps the ratio, as CenterMask's first implementation does.

    The short side becomes that of ``scale``, or is shorter, rounded, if the long side would exceed that of ``scale``.
    The long side is rounded down: 480x640 becomes 800x1066, not 800x1067 as with ``Resize``.

    Args:
        scale: Short side and upper bound of the long side, in any order.
        **kwargs: As in ``Resize``; ``keep_ratio`` stays False, the size is exact.
    """

    def _resize_img(self, results: dict) -> None:
        results['scale'] = _size(results['img'].shape[:2], results['scale'])
        super()._resize_img(results)


def _size(img_shape: tuple[int, int], scale: Sequence[int]) -> tuple[int, int]:
    """(width, height) of an image of shape (height, width) after resizing."""
    short, long = sorted(img_shape)
    target, limit = sorted(scale)
    if long / short * target > limit:
        target = max(round(limit * short / long), 1)
    sides = {True: target, False: target * long // short}
    height, width = img_shape
    return sides[width == short], sides[height == short]
