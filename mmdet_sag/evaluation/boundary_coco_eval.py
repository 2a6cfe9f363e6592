import math

import cv2
import numpy as np
from mmdet.datasets.api_wrappers import COCOeval
from pycocotools import mask as mask_api

# Width of a boundary as a share of the image's diagonal.
_WIDTH = 0.02


def mask_boundary(mask: dict) -> dict:
    """The pixels of a mask, an RLE, within 2 % of the image's diagonal from its outline or the image's border."""
    x, y, width, height = mask_api.toBbox(mask).astype(int)
    if not width or not height:
        return mask
    distance = max(1, round(_WIDTH * math.hypot(*mask['size'])))
    pixels = np.zeros(mask['size'], np.uint8, order='F')
    inside = mask_api.decode(mask)[y : y + height, x : x + width]
    kernel = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    eroded = cv2.erode(inside, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    pixels[y : y + height, x : x + width] = inside - eroded
    return mask_api.encode(pixels)


class BoundaryCOCOeval(COCOeval):
    """COCO's evaluation of masks by the smaller one of their IoU and the IoU of their boundaries.

    Boundary AP judges the outlines of large masks, to which mask AP is nearly blind. Crowd regions have their mask IoU.
    Source: `Boundary IoU <https://arxiv.org/abs/2103.16562>`_, Sections 4 and 5.
    """

    def computeIoU(self, imgId: int, catId: int) -> np.ndarray | list:
        """Compute the IoUs of an image's detections and objects of a class, (num_detections, num_objects)."""
        ious = super().computeIoU(imgId, catId)
        if len(ious):
            key = imgId, catId
            truths, results = self._gts[key], self._dts[key]
            self._gts[key], self._dts[key] = (
                [dict(entry, segmentation=mask_boundary(entry['segmentation'])) for entry in entries]
                for entries in (truths, results)
            )
            of_boundaries = super().computeIoU(imgId, catId)
            self._gts[key], self._dts[key] = truths, results
            objects = [not truth['iscrowd'] for truth in truths]
            ious[:, objects] = np.minimum(ious, of_boundaries)[:, objects]
        return ious
