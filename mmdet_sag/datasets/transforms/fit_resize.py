from mmdet.datasets.transforms import Resize
from mmdet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class FitResize(Resize):
    """Resizes to the largest size of the same ratio that fits into a width and a height.

    ``Resize`` takes ``scale`` as long and short side, so that an upright image would not fit into a wide ``scale``.

    Args:
        scale: Width and height.
        **kwargs: As in ``Resize``.
    """

    def __init__(self, scale: tuple[int, int], **kwargs) -> None:
        super().__init__(tuple(scale), keep_ratio=True, **kwargs)

    def _resize_img(self, results: dict) -> None:
        height, width = results['img'].shape[:2]
        results['scale'] = min(self.scale[0] / width, self.scale[1] / height)
        super()._resize_img(results)
