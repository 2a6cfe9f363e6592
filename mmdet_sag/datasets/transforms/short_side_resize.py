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
        height, width = results['img'].shape[:2]
        short, long = sorted((height, width))
        target, limit = sorted(results['scale'])
        if long / short * target > limit:
            target = max(round(limit * short / long), 1)
        sides = {True: target, False: target * long // short}
        results['scale'] = sides[width == short], sides[height == short]
        super()._resize_img(results)
