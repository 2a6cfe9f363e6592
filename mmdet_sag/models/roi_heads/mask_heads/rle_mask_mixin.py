import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from torch import Tensor

from ....structures.mask import RLEMasks, paste_masks_as_rle


class RLEMaskMixin(FCNMaskHead):
    """Post-processing of an FCN mask head that can return run-length encoded masks.

    With ``test_cfg.rcnn.rle_masks=True``, masks are :class:`RLEMasks` instead of a tensor of bitmaps: the same pixels,
    in a fraction of the time and memory. Soft masks (``mask_thr_binary`` below 0) stay bitmaps.
    """

    def predict_by_feat(
        self,
        mask_preds: tuple[Tensor, ...],
        results_list: InstanceList,
        batch_img_metas: list[dict],
        rcnn_test_cfg: ConfigDict,
        **kwargs,
    ) -> InstanceList:
        """Add masks to detections.

        Arguments and results are those of ``FCNMaskHead``, with two additions: masks are :class:`RLEMasks` if
        ``rcnn_test_cfg.rle_masks`` is set, and ``mask_preds`` may have one channel, that of each detection's class.
        """
        results_list = super().predict_by_feat(mask_preds, results_list, batch_img_metas, rcnn_test_cfg, **kwargs)
        if _uses_rle(rcnn_test_cfg):
            for results in results_list:
                # FCNMaskHead gives images without detections a tensor (0, H, W).
                if isinstance(results.masks, Tensor):
                    results.masks = RLEMasks([], *results.masks.shape[1:])
        return results_list

    def _predict_by_feat_single(
        self,
        mask_preds: Tensor,
        bboxes: Tensor,
        labels: Tensor,
        img_meta: dict,
        rcnn_test_cfg: ConfigDict,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> Tensor | RLEMasks:
        if mask_preds.shape[1] == 1:
            labels = torch.zeros_like(labels)
        if not _uses_rle(rcnn_test_cfg):
            return super()._predict_by_feat_single(
                mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale=rescale, activate_map=activate_map
            )
        height, width = img_meta['ori_shape'][:2]
        scale_factor = bboxes.new_tensor(img_meta['scale_factor'])
        if rescale:
            # In place, as in FCNMaskHead: these are the boxes of the results.
            bboxes /= scale_factor.repeat(2)
        else:
            width_scale, height_scale = scale_factor.tolist()
            height, width = round(height * height_scale), round(width * width_scale)
        mask_preds = torch.as_tensor(mask_preds, device=bboxes.device)
        mask_preds = mask_preds[torch.arange(len(labels), device=labels.device), labels]
        probs = mask_preds if activate_map else mask_preds.sigmoid()
        return paste_masks_as_rle(probs, bboxes, height, width, rcnn_test_cfg.mask_thr_binary)


def _uses_rle(rcnn_test_cfg: ConfigDict) -> bool:
    return rcnn_test_cfg.get('rle_masks', False) and rcnn_test_cfg.mask_thr_binary >= 0
