import torch
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi
from mmdet.utils import ConfigType, InstanceList
from torch import Tensor

from .mask_tta import MaskTTAModel


@MODELS.register_module()
class TwoStageMaskTTAModel(MaskTTAModel):
    """Test-time augmentation of Mask R-CNN and Cascade Mask R-CNN, with any FCN mask head.

    A cascade's masks are averaged over its stages too, as in its plain ``predict``.
    """

    @staticmethod
    def supports(model: ConfigType) -> bool:
        """Whether the masks of a config's detector come from nothing but features, boxes and the mask head."""
        detector, roi_head = (_class_of(cfg) for cfg in (model, model.get('roi_head')))
        methods = ('predict', 'predict_bbox', 'predict_mask')
        return issubclass(detector, TwoStageDetector) and any(
            issubclass(roi_head, base) and all(getattr(roi_head, name) is getattr(base, name) for name in methods)
            for base in (StandardRoIHead, CascadeRoIHead)
        )

    def predict_boxes(self, feats: tuple[Tensor, ...], batch_data_samples: SampleList) -> InstanceList:
        roi_head = self.detector.roi_head
        rpn_results_list = self.detector.rpn_head.predict(feats, batch_data_samples, rescale=False)
        batch_img_metas = [sample.metainfo for sample in batch_data_samples]
        return roi_head.predict_bbox(feats, batch_img_metas, rpn_results_list, roi_head.test_cfg, rescale=False)

    def predict_masks(
        self, feats: tuple[Tensor, ...], results_list: InstanceList, batch_data_samples: SampleList
    ) -> tuple[Tensor]:
        roi_head = self.detector.roi_head
        rois = bbox2roi([results.bboxes for results in results_list])
        stages = [(stage,) for stage in range(roi_head.num_stages)] if isinstance(roi_head, CascadeRoIHead) else [()]
        probs = [roi_head._mask_forward(*stage, feats, rois)['mask_preds'].sigmoid() for stage in stages]
        return (torch.stack(probs).mean(dim=0),)

    def predict_by_feat(
        self, mask_preds: Tensor, *others: Tensor, results_list: InstanceList, batch_img_metas: list[dict]
    ) -> InstanceList:
        roi_head = self.detector.roi_head
        mask_head = roi_head.mask_head[-1] if isinstance(roi_head, CascadeRoIHead) else roi_head.mask_head
        return mask_head.predict_by_feat(
            mask_preds.split([len(results) for results in results_list]),
            results_list,
            batch_img_metas,
            rcnn_test_cfg=roi_head.test_cfg,
            rescale=True,
        )


def _class_of(cfg: ConfigType) -> type:
    kind = (cfg or {}).get('type')
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    return kind if isinstance(kind, type) else object
