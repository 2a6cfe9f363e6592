import torch
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from torch import Tensor

from .mask_tta import FLIPPED_DIMS, MaskTTAModel


@MODELS.register_module()
class CenterMaskTTAModel(MaskTTAModel):
    """Test-time augmentation of CenterMask: :class:`MaskTTAModel` that averages the predicted mask IoUs too."""

    def predict_boxes(self, feats: tuple[Tensor, ...], batch_data_samples: SampleList) -> InstanceList:
        return self.detector.predict_boxes(self.detector.instance_feats(feats), batch_data_samples)

    def predict_masks(
        self, feats: tuple[Tensor, ...], results_list: InstanceList, batch_data_samples: SampleList
    ) -> tuple[Tensor, ...]:
        """With a MaskIoU head, the predicted IoUs, shape (n, num_classes), follow the mask probabilities."""
        mask_preds, mask_iou_preds = self.detector.roi_head(
            self.detector.instance_feats(feats), results_list, batch_data_samples
        )
        probs = mask_preds.sigmoid()
        return (probs,) if mask_iou_preds is None else (probs, mask_iou_preds)

    def predict_by_feat(
        self, mask_preds: Tensor, *mask_iou_preds: Tensor, results_list: InstanceList, batch_img_metas: list[dict]
    ) -> InstanceList:
        return self.detector.roi_head.predict_by_feat(
            mask_preds, *(mask_iou_preds or (None,)), results_list, batch_img_metas, rescale=True
        )


@MODELS.register_module()
class PanopticCenterMaskTTAModel(CenterMaskTTAModel):
    """Test-time augmentation of Panoptic-CenterMask.

    Instances are merged as by :class:`CenterMaskTTAModel`; the semantic probabilities are averaged over the views, and
    both are then merged as without augmentation.
    """

    @torch.no_grad()
    def test_step(self, data: dict) -> SampleList:
        """Predict on augmented images as :meth:`PanopticCenterMask.predict` does with ``rescale=True``."""
        views = self._predict_views(data)
        results_list = self._merge_instances(views)
        seg_probs = [sum(probs) / len(views) for probs in zip(*(self._predict_semantic(*view) for view in views))]
        batch_data_samples = views[0][1]
        for sample, panoptic in zip(
            batch_data_samples, self.detector.panoptic_fusion_head.predict(results_list, seg_probs)
        ):
            sample.pred_panoptic_seg = panoptic
        return self.detector.add_pred_to_datasample(batch_data_samples, results_list)

    def _predict_semantic(self, feats: tuple[Tensor, ...], data_samples: SampleList, _: list) -> list[Tensor]:
        """Class probabilities (num_classes, H, W) that one view predicts, upright, at the original images' size."""
        metas = [sample.metainfo for sample in data_samples]
        upright = []
        for sample, logits in zip(data_samples, self.detector.semantic_head.predict(feats, metas, rescale=True)):
            probs = logits.softmax(dim=0)
            upright.append(probs.flip(FLIPPED_DIMS[sample.flip_direction]) if sample.flip else probs)
        return upright
