import numpy as np
from mmdet.datasets.transforms import RandomCenterCropPad
from mmdet.registry import TRANSFORMS
from mmdet.structures.mask import BitmapMasks


@TRANSFORMS.register_module()
class RandomCenterCropPadWithMasks(RandomCenterCropPad):
    """MMDetection's ``RandomCenterCropPad``, whose arguments it takes, that crops and pads masks with the image.

    Masks become bitmaps. In test mode, ground truth is left as it is, as by MMDetection: load it afterwards.
    """

    def _crop_image_and_paste(self, image: np.ndarray, center: list, size: list) -> tuple:
        cropped, border, patch = super()._crop_image_and_paste(image, center, size)
        self.place = border.astype(int), patch
        return cropped, border, patch

    def _train_aug(self, results: dict) -> dict:
        if 'gt_masks' not in results:
            return super()._train_aug(results)
        masks, labels = results.pop('gt_masks').to_ndarray(), results['gt_bboxes_labels']
        # The parent filters them together with the boxes.
        results['gt_bboxes_labels'] = np.arange(len(labels))
        results = super()._train_aug(results)
        kept = results['gt_bboxes_labels']
        results['gt_bboxes_labels'] = labels[kept]
        (top, bottom, left, right), (x1, y1, x2, y2) = self.place
        height, width = results['img_shape']
        bitmaps = np.zeros((len(kept), height, width), np.uint8)
        bitmaps[:, top:bottom, left:right] = masks[kept, y1:y2, x1:x2]
        results['gt_masks'] = BitmapMasks(bitmaps, height, width)
        return results
