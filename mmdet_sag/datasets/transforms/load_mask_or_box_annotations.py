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
        **kwargs: As in ``LoadAnnotations``.
    """

    def _process_masks(self, results: dict) -> list:
        results['instances'] = [{'mask': _NO_MASK, **instance} for instance in results.get('instances', [])]
        return super()._process_masks(results)
