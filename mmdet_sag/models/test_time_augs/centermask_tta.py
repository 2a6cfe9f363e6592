from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from torch import Tensor

from .mask_tta import MaskTTAModel


@MODELS.register_module()
class CenterMaskTTAModel(MaskTTAModel):
    """Test-time augmentation of CenterMask: :class:`MaskTTAModel` that averages the predicted mask IoUs too.

    Args:
        tta_cfg: As in :class:`MaskTTAModel`.
        **kwargs: As in :class:`MaskTTAModel`.
    """

    def predict_boxes(self, feats: tuple[Tensor, ...], batch_data_samples: SampleList) -> InstanceList:
        """See :meth:`MaskTTAModel.predict_boxes`."""
        return self.module.bbox_head.predict(self.module.instance_feats(feats), batch_data_samples)

    def predict_masks(
        self, feats: tuple[Tensor, ...], results_list: InstanceList, batch_data_samples: SampleList
    ) -> tuple[Tensor, ...]:
        """See :meth:`MaskTTAModel.predict_masks`.

        With a MaskIoU head, the predicted IoUs, shape (n, num_classes), follow.
        """
        mask_preds, mask_iou_preds = self.module.roi_head(
            self.module.instance_feats(feats), results_list, batch_data_samples
        )
        probs = mask_preds.sigmoid()
        return (probs,) if mask_iou_preds is None else (probs, mask_iou_preds)

    def predict_by_feat(
        self, mask_preds: Tensor, *mask_iou_preds: Tensor, results_list: InstanceList, batch_img_metas: list[dict]
    ) -> InstanceList:
        """See :meth:`MaskTTAModel.predict_by_feat`."""
        return self.module.roi_head.predict_by_feat(
            mask_preds, *(mask_iou_preds or (None,)), results_list, batch_img_metas, rescale=True
        )
