import torch
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from torch import Tensor

from .centermask_tta import CenterMaskTTAModel
from .mask_tta import FLIPPED_DIMS


@MODELS.register_module()
class PanopticCenterMaskTTAModel(CenterMaskTTAModel):
    """Test-time augmentation of Panoptic-CenterMask.

    Instances are merged as by :class:`CenterMaskTTAModel`; the semantic probabilities are averaged over the views, and
    both are then merged as without augmentation.
    """

    @torch.no_grad()
    def test_step(self, data: dict) -> SampleList:
        """Predict on a batch of augmented images.

        Args:
            data: ``inputs`` and ``data_samples``; each is a list over views of lists over images.

        Returns:
            One data sample per image, as :meth:`PanopticCenterMask.predict` returns it with ``rescale=True``.
        """
        views = self._predict_views(data)
        results_list = self._merge_instances(views)
        seg_probs = [sum(probs) / len(views) for probs in zip(*(self._predict_semantic(*view) for view in views))]
        batch_data_samples = views[0][1]
        for sample, panoptic in zip(
            batch_data_samples, self.module.panoptic_fusion_head.predict(results_list, seg_probs)
        ):
            sample.pred_panoptic_seg = panoptic
        return self.module.add_pred_to_datasample(batch_data_samples, results_list)

    def _predict_semantic(self, feats: tuple[Tensor, ...], data_samples: SampleList, _: list) -> list[Tensor]:
        """Class probabilities (num_classes, H, W) that one view predicts, upright, at the original images' size."""
        metas = [sample.metainfo for sample in data_samples]
        upright = []
        for sample, logits in zip(data_samples, self.module.semantic_head.predict(feats, metas, rescale=True)):
            probs = logits.softmax(dim=0)
            upright.append(probs.flip(FLIPPED_DIMS[sample.flip_direction]) if sample.flip else probs)
        return upright
