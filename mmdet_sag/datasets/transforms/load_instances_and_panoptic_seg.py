import numpy as np
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import TRANSFORMS

from ..coco_instance_panoptic import read_segment_ids


@TRANSFORMS.register_module()
class LoadInstancesAndPanopticSeg(LoadAnnotations):
    """Loads instances as ``LoadAnnotations`` does, and the semantic segmentation from a panoptic PNG.

    ``LoadPanopticAnnotations`` instead also takes the masks from the PNG, and needs the package ``panopticapi``.

    Required keys are those of ``LoadAnnotations``, with ``seg_map_path`` the panoptic PNG, and ``segments_info``: a
    list of mappings with the ``id`` of a segment and its label, ``category``. The key ``gt_seg_map`` (H, W), uint8,
    gets the labels, and ``ignore_index`` where there is no segment. Crowds are segments of their class.

    Args:
        with_seg: Whether to load the semantic segmentation.
        ignore_index: Label of pixels that belong to no segment.
        **kwargs: As in ``LoadAnnotations``.
    """

    def __init__(self, with_seg: bool = True, ignore_index: int = 255, **kwargs) -> None:
        super().__init__(with_seg=with_seg, ignore_index=ignore_index, **kwargs)

    def _load_seg_map(self, results: dict) -> None:
        if results.get('seg_map_path') is None:
            return
        segments = sorted((segment['id'], segment['category']) for segment in results['segments_info'])
        # A last entry that no pixel has: there is one also without segments.
        ids, labels = np.array([*segments, (1 << 24, self.ignore_index)]).T
        pixels = read_segment_ids(results['seg_map_path'], self.backend_args)
        place = np.searchsorted(ids, pixels)
        results['gt_seg_map'] = np.where(ids[place] == pixels, labels[place], self.ignore_index).astype(np.uint8)
        results['ignore_index'] = self.ignore_index
