from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import TRANSFORMS

# Three equal corners: a mask without area, through every resize, flip and crop.
_NO_MASK = [[0.0] * 6]


@TRANSFORMS.register_module()
class LoadMaskOrBoxAnnotations(LoadAnnotations):
    """Loads annotations as ``LoadAnnotations`` does, and gives objects that have a box alone a mask without area.

    ``LoadAnnotations`` breaks off at an object without ``segmentation``. :class:`BoxInstLoss` learns its mask from the
    box, as it does for an object whose mask a crop has cut off.

    Args:
        boxes_only: Whether no mask is read: all objects then have a box alone.
        **kwargs: As in ``LoadAnnotations``.
    """

    def __init__(self, boxes_only: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.boxes_only = boxes_only

    def _process_masks(self, results: dict) -> list:
        results['instances'] = [
            {**instance, 'mask': _NO_MASK} if self.boxes_only or not instance.get('mask') else instance
            for instance in results.get('instances', [])
        ]
        return super()._process_masks(results)
