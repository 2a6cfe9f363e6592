from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.utils import ConfigType, InstanceList
from mmengine.config import ConfigDict
from torch import Tensor

from .centermask import CenterMask


@MODELS.register_module()
class PanopticCenterMask(CenterMask):
    """CenterMask with the semantic branch of Panoptic FPN on the same FPN.

    Source: `CenterMask <https://arxiv.org/abs/1911.06667>`_ and
    `Panoptic Feature Pyramid Networks <https://arxiv.org/abs/1901.02446>`_.

    Args:
        semantic_head: Config of the semantic head; it gets all FPN levels.
        panoptic_fusion_head: Config of the head that merges instances and semantic segmentation.
        instance_start_level: Index of the first FPN level that the box head and the RoI branch get.
        test_cfg: As in :class:`CenterMask`, and ``panoptic``, the config of the merging.
        **kwargs: As in :class:`CenterMask`.
    """

    class_layers = (*CenterMask.class_layers, 'semantic_head.conv_logits')

    def __init__(
        self,
        *,
        semantic_head: ConfigType,
        panoptic_fusion_head: ConfigType,
        instance_start_level: int = 1,
        test_cfg: ConfigType | None = None,
        **kwargs,
    ) -> None:
        super().__init__(test_cfg=test_cfg, **kwargs)
        self.instance_start_level = instance_start_level
        self.semantic_head = MODELS.build(semantic_head)
        self.panoptic_fusion_head = MODELS.build(
            ConfigDict(panoptic_fusion_head, test_cfg=test_cfg.panoptic if test_cfg else None)
        )

    def instance_feats(self, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The FPN levels of the box head and the RoI branch."""
        return x[self.instance_start_level :]

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict:
        """Compute the losses of :class:`CenterMask`, and ``loss_seg``, that of the semantic head.

        Images have the shape (N, 3, H, W), data samples have ``gt_instances`` and ``gt_sem_seg``, whose ``sem_seg``
        (1, H, W) holds labels: things, then stuff, and 255 where there is none.
        """
        x = self.extract_feat(batch_inputs)
        losses = self.loss_by_feat(self.instance_feats(x), batch_data_samples)
        losses.update(self.semantic_head.loss(x, batch_data_samples))
        return losses

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True) -> SampleList:
        """Detect objects and their masks, and segment the whole image; arguments are those of :class:`CenterMask`.

        Returns:
            The data samples with ``pred_instances`` as from :class:`CenterMask`, and ``pred_panoptic_seg``, whose
            ``sem_seg`` (1, H, W) holds label + 1000 x number of the instance (from 1; 0 for stuff), and the number of
            classes where there is nothing.
        """
        x = self.extract_feat(batch_inputs)
        results_list = self.predict_by_feat(self.instance_feats(x), batch_data_samples, rescale=rescale)
        batch_img_metas = [sample.metainfo for sample in batch_data_samples]
        seg_preds = self.semantic_head.predict(x, batch_img_metas, rescale=rescale)
        return self.add_results(batch_data_samples, results_list, seg_preds)

    def add_results(self, data_samples: SampleList, results_list: InstanceList, seg_preds: list[Tensor]) -> SampleList:
        """Merge instances and class scores (num_classes, H, W) of each image into the results of :meth:`predict`."""
        panoptic_list = self.panoptic_fusion_head.predict(results_list, seg_preds)
        for sample, panoptic in zip(data_samples, panoptic_list):
            sample.pred_panoptic_seg = panoptic
        return self.add_pred_to_datasample(data_samples, results_list)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> tuple:
        x = self.extract_feat(batch_inputs)
        instances = self.forward_by_feat(self.instance_feats(x), batch_data_samples)
        return *instances, self.semantic_head(x)['seg_preds']
