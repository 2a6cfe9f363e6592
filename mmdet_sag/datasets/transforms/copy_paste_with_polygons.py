from mmdet.datasets.transforms import CopyPaste
from mmdet.registry import TRANSFORMS
from mmdet.structures.mask import BitmapMasks, PolygonMasks


@TRANSFORMS.register_module()
class CopyPasteWithPolygons(CopyPaste):
    """MMDetection's ``CopyPaste`` (Ghiasi et al. 2021), whose arguments it takes, for polygons too.

    Polygons become bitmaps, as the pasted objects cut pieces out of them. What comes before, such as resizing, crops
    and flips, is done on polygons. The image keeps its data type, where ``CopyPaste`` makes it int64.

    It is a step of the pipeline of ``MultiImageMixDataset``, whose images have one size: their own pipeline ends with
    ``Pad(size=...)``.
    """

    def transform(self, results: dict) -> dict:
        """Paste objects of the image in ``results['mix_results']``."""
        for part in (results, *results['mix_results']):
            masks = part.get('gt_masks')
            if isinstance(masks, PolygonMasks):
                part['gt_masks'] = BitmapMasks(masks.to_ndarray(), masks.height, masks.width)
        dtype = results['img'].dtype
        results = super().transform(results)
        results['img'] = results['img'].astype(dtype)
        return results
