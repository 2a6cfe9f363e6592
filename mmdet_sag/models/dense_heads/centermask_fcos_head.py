import torch
import torch.nn.functional as F
from mmcv.cnn import Scale
from mmdet.models.dense_heads import FCOSHead
from mmdet.models.utils import filter_scores_and_topk
from mmdet.registry import MODELS
from mmdet.utils import ConfigType, InstanceList
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from ..layers import class_by_class_nms


@MODELS.register_module()
class CenterMaskFCOSHead(FCOSHead):
    """FCOS head as the published CenterMask models have it.

    Differences from :class:`mmdet.models.dense_heads.FCOSHead`, each with the reference's behaviour as default:

    - distances are ReLU-ed and measured in strides (``norm_on_bbox``), in training and testing alike, so that the
      detections of a training step can be proposals; the centerness comes from the box tower; the tower convs have
      biases;
    - the box loss is a GIoU loss smoothed by 1 (``loss_bbox``);
    - post-processing, set in ``test_cfg`` (or the config given to :meth:`predict_by_feat`):

      =====================  =======  ===================================================================
      key                    default  meaning
      =====================  =======  ===================================================================
      ``rank_by_centerness`` True     the best ``nms_pre`` of a level are chosen by class score times
                                      centerness; ``False``: by class score alone
      ``sqrt_score``         True     the score is the square root of class score times centerness
      ``clip_boxes``         False    boxes are clipped to the image before NMS
      ``inclusive_boxes``    False    boxes end at their last pixel, so they are clipped to width - 1, height - 1;
                                      ``nms.offset=1`` belongs to it
      ``keep_ties``          True     detections that tie with the last of ``max_per_img`` are kept
      ``one_pass_nms``       True     with ``nms.split_thr=0``: NMS class by class is one call, not one per class with
                                      a synchronisation each
      =====================  =======  ===================================================================

    Source: `FCOS <https://arxiv.org/abs/1904.01355>`_ and `CenterMask <https://arxiv.org/abs/1911.06667>`_.

    Args:
        *args: As in ``FCOSHead``.
        center_sampling: As in ``FCOSHead``, on by default.
        conv_bias: As in ``FCOSHead``, True by default.
        norm_on_bbox: Whether distances are ReLU-ed strides; if not, they are exponentials in pixels of the network's
            input, as in CenterMask's first implementation.
        loss_bbox: Config of the box loss. It gets boxes in strides, or in pixels if ``norm_on_bbox`` is False.
        **kwargs: As in ``FCOSHead``.
    """

    def __init__(
        self,
        *args,
        center_sampling: bool = True,
        conv_bias: bool = True,
        norm_on_bbox: bool = True,
        loss_bbox: ConfigType = dict(type='SmoothedGIoULoss', loss_weight=1.0),
        **kwargs,
    ) -> None:
        super().__init__(
            *args,
            center_sampling=center_sampling,
            norm_on_bbox=norm_on_bbox,
            centerness_on_reg=True,
            conv_bias=conv_bias,
            loss_bbox=loss_bbox,
            **kwargs,
        )

    def forward_single(self, x: Tensor, scale: Scale, stride: int) -> tuple[Tensor, Tensor, Tensor]:
        """Predict on one FPN level.

        Args:
            x: Features of the level, shape (N, C, H, W).
            scale: The level's learnt factor of the distances.
            stride: The level's stride; not used, distances keep their unit.

        Returns:
            Class logits (N, num_classes, H, W), distances to left, top, right, bottom (N, 4, H, W), in strides or, if
            ``norm_on_bbox`` is False, in pixels, and centerness logits (N, 1, H, W).
        """
        cls_score, bbox_pred, _, reg_feat = super(FCOSHead, self).forward_single(x)
        # In float32: distances of large objects lose pixels in half precision.
        bbox_pred = scale(bbox_pred).float()
        bbox_pred = F.relu(bbox_pred) if self.norm_on_bbox else bbox_pred.exp()
        return cls_score, bbox_pred, self.conv_centerness(reg_feat)

    def predict_by_feat(self, cls_scores: list[Tensor], bbox_preds: list[Tensor], *args, **kwargs) -> InstanceList:
        """Turn the outputs of :meth:`forward` into detections. Arguments and results are those of ``FCOSHead``."""
        # The points get the type of the logits, and those of bfloat16 are pixels away from where they should be.
        cls_scores = [cls_score.float() for cls_score in cls_scores]
        if self.norm_on_bbox:
            bbox_preds = [bbox_pred * stride for bbox_pred, stride in zip(bbox_preds, self.strides)]
        return super().predict_by_feat(cls_scores, bbox_preds, *args, **kwargs)

    def _predict_by_feat_single(
        self,
        cls_score_list: list[Tensor],
        bbox_pred_list: list[Tensor],
        score_factor_list: list[Tensor],
        mlvl_priors: list[Tensor],
        img_meta: dict,
        cfg: ConfigDict,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceData:
        cfg = self.test_cfg if cfg is None else cfg
        levels = []
        for cls_score, bbox_pred, centerness, priors in zip(
            cls_score_list, bbox_pred_list, score_factor_list, mlvl_priors
        ):
            cls_score = cls_score.permute(1, 2, 0).reshape(-1, self.cls_out_channels)
            # The last channel of a softmax is the background.
            cls_score = cls_score.sigmoid() if self.use_sigmoid_cls else cls_score.softmax(-1)[:, :-1]
            joint = cls_score * centerness.reshape(-1, 1).float().sigmoid()
            rank = joint if cfg.get('rank_by_centerness', True) else cls_score
            # The threshold is one of the class score, whatever ranks: the rest goes below all ranks.
            rank = rank.masked_fill(cls_score <= cfg.get('score_thr', 0), -1)
            bbox_pred = bbox_pred.permute(1, 2, 0).reshape(-1, 4)
            _, labels, points, kept = filter_scores_and_topk(
                rank, -0.5, cfg.get('nms_pre', rank.numel()), dict(bbox_pred=bbox_pred, priors=priors)
            )
            kept.update(labels=labels, scores=joint[points, labels])
            levels.append(kept)

        priors, bbox_pred, labels, scores = (
            torch.cat([level[key] for level in levels]) for key in ('priors', 'bbox_pred', 'labels', 'scores')
        )
        max_shape = None
        if cfg.get('clip_boxes', False):
            extent = int(cfg.get('inclusive_boxes', False))
            max_shape = tuple(side - extent for side in img_meta['img_shape'][:2])
        results = InstanceData(
            bboxes=self.bbox_coder.decode(priors, bbox_pred, max_shape=max_shape),
            scores=scores.sqrt() if cfg.get('sqrt_score', True) else scores,
            labels=labels,
        )
        return self._bbox_post_process(results, cfg, rescale=rescale, with_nms=with_nms, img_meta=img_meta)

    def _bbox_post_process(
        self, results: InstanceData, cfg: ConfigDict, with_nms: bool = True, **kwargs
    ) -> InstanceData:
        max_per_img = cfg.get('max_per_img', -1)
        if not with_nms or max_per_img <= 0:
            return super()._bbox_post_process(results, cfg, with_nms=with_nms, **kwargs)
        if self._nms_in_one_pass(cfg):
            results = super()._bbox_post_process(results, cfg, with_nms=False, **kwargs)
            results = results[class_by_class_nms(results.bboxes, results.scores, results.labels, cfg.nms.iou_threshold)]
        else:
            cfg_of_all = ConfigDict(cfg, max_per_img=len(results))
            results = super()._bbox_post_process(results, cfg_of_all, with_nms=True, **kwargs)
        if not cfg.get('keep_ties', True):
            return results[:max_per_img]
        if len(results) > max_per_img:
            results = results[results.scores >= results.scores[max_per_img - 1]]
        return results

    @staticmethod
    def _nms_in_one_pass(cfg: ConfigDict) -> bool:
        nms = cfg.get('nms') or {}
        plain = nms.get('type', 'nms') == 'nms' and nms.keys() <= {'type', 'iou_threshold', 'split_thr'}
        return cfg.get('one_pass_nms', True) and plain and nms.get('split_thr') == 0
