import torch
import torch.nn.functional as F
from mmcv.cnn import Scale
from mmdet.models.dense_heads import FCOSHead
from mmdet.models.dense_heads.fcos_head import INF
from mmdet.models.utils import multi_apply
from mmdet.registry import MODELS
from mmdet.utils import ConfigType, InstanceList
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor
from torchvision.ops import nms

from ...structures.inclusive_boxes import clip_boxes
from ..layers.group_selection import best_of_groups, filled, join, split


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
      ``keep_ties``          True     detections that tie with the last of ``max_per_img`` are kept
      ``one_pass_nms``       True     with ``nms.split_thr=0``: NMS runs on all classes in one call instead of one call
                                      and synchronisation per class
      =====================  =======  ===================================================================

    Source: `FCOS <https://arxiv.org/abs/1904.01355>`_ and `CenterMask <https://arxiv.org/abs/1911.06667>`_.

    Further arguments are those of ``FCOSHead``, of which ``center_sampling`` and ``conv_bias`` are True by default.

    Args:
        norm_on_bbox: Whether distances are ReLU-ed strides; if not, they are exponentials in pixels of the network's
            input, as in CenterMask's first implementation.
        loss_bbox: Config of the box loss. It gets boxes in strides, or in pixels if ``norm_on_bbox`` is False.
        inclusive_boxes: As in :class:`CenterMask`, which sets it; ``test_cfg.nms.offset=1`` belongs to it.
    """

    # Whether detections have ``cells``, the number of their location among those of all levels.
    with_cells = False

    def __init__(
        self,
        *args,
        center_sampling: bool = True,
        conv_bias: bool = True,
        norm_on_bbox: bool = True,
        loss_bbox: ConfigType = dict(type='SmoothedGIoULoss', loss_weight=1.0),
        inclusive_boxes: bool = False,
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
        self.inclusive_boxes = inclusive_boxes

    def forward_single(self, x: Tensor, scale: Scale, stride: int) -> tuple[Tensor, Tensor, Tensor]:
        """Predict on one FPN level's features (N, C, H, W), with its learnt factor of the distances, ``scale``.

        ``stride`` is not used: distances keep their unit.

        Returns:
            Class logits (N, num_classes, H, W), distances to left, top, right, bottom (N, 4, H, W), in strides or, if
            ``norm_on_bbox`` is False, in pixels, and centerness logits (N, 1, H, W).
        """
        cls_score, bbox_pred, _, reg_feat = super(FCOSHead, self).forward_single(x)
        # In float32: distances of large objects lose pixels in half precision.
        bbox_pred = scale(bbox_pred).float()
        bbox_pred = F.relu(bbox_pred) if self.norm_on_bbox else bbox_pred.exp()
        return cls_score, bbox_pred, self.conv_centerness(reg_feat)

    def loss_by_feat(
        self, cls_scores: list[Tensor], bbox_preds: list[Tensor], centernesses: list[Tensor], *args, **kwargs
    ) -> dict:
        """Compute the losses, in float32 whatever the weights are. Arguments and results are those of ``FCOSHead``."""
        cls_scores, centernesses = ([level.float() for level in levels] for levels in (cls_scores, centernesses))
        return super().loss_by_feat(cls_scores, bbox_preds, centernesses, *args, **kwargs)

    def get_targets(self, points: list[Tensor], batch_gt_instances: InstanceList) -> tuple[list[Tensor], list[Tensor]]:
        """Labels and distances of all points. As in ``FCOSHead``, which sends a GPU the range of each level."""
        ranges = [filled(level, [ends]).expand(len(level), -1) for level, ends in zip(points, self.regress_ranges)]
        num_points = [len(level) for level in points]
        targets = multi_apply(
            self._get_targets_single,
            batch_gt_instances,
            points=torch.cat(points),
            regress_ranges=torch.cat(ranges),
            num_points_per_lvl=num_points,
        )
        # Of each image, all levels; now of each level, all images.
        labels, distances = (
            [torch.cat(level) for level in zip(*(part.split(num_points) for part in parts))] for parts in targets
        )
        if self.norm_on_bbox:
            distances = [level / stride for level, stride in zip(distances, self.strides)]
        return labels, distances

    def _get_targets_single(
        self, gt_instances: InstanceData, points: Tensor, regress_ranges: Tensor, num_points_per_lvl: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Labels (n, ) and distances (n, 4) of an image's points. ``FCOSHead`` makes a list of all of their numbers."""
        bboxes, labels = gt_instances.bboxes, gt_instances.labels
        if len(labels) == 0:
            return super()._get_targets_single(gt_instances, points, regress_ranges, num_points_per_lvl)
        points, low, high = points[:, None], bboxes[:, :2], bboxes[:, 2:]
        distances = inside = torch.cat([points - low, high - points], dim=-1)
        if self.center_sampling:
            levels = zip(num_points_per_lvl, self.strides)
            reach = torch.cat([points.new_full((n, 1, 1), stride * self.center_sample_radius) for n, stride in levels])
            centres = (low + high) / 2
            low, high = torch.maximum(centres - reach, low), torch.minimum(centres + reach, high)
            inside = torch.cat([points - low, high - points], dim=-1)
        farthest = distances.amax(-1)
        in_range = (farthest >= regress_ranges[:, :1]) & (farthest <= regress_ranges[:, 1:])
        areas = (bboxes[:, 2:] - bboxes[:, :2]).prod(1)
        smallest, index = torch.where((inside.amin(-1) > 0) & in_range, areas, INF).min(dim=1)
        labels = torch.where(smallest == INF, self.num_classes, labels[index])
        return labels, distances.gather(1, index[:, None, None].expand(-1, 1, 4)).squeeze(1)

    def centerness_target(self, pos_bbox_targets: Tensor) -> Tensor:
        """Centerness (n, ) of distances (n, 4). ``FCOSHead`` takes columns by lists, which a GPU has to be sent."""
        left_right, top_bottom = pos_bbox_targets[:, 0::2], pos_bbox_targets[:, 1::2]
        return (left_right.amin(1) / left_right.amax(1) * (top_bottom.amin(1) / top_bottom.amax(1))).sqrt()

    def predict_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        score_factors: list[Tensor],
        batch_img_metas: list[dict],
        cfg: ConfigDict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceList:
        """Turn the outputs of :meth:`forward` into detections.

        All levels and images are worked on at once, so that a GPU is waited for a few times only. Arguments and
        results are those of ``FCOSHead``.
        """
        cfg = self.test_cfg if cfg is None else cfg
        sizes = [level.shape[2:] for level in cls_scores]
        # In float32: bfloat16 would round the points by whole pixels.
        points = self.prior_generator.grid_priors(sizes, dtype=torch.float32, device=cls_scores[0].device)
        level_of = torch.cat([level.new_full((len(level),), i, dtype=torch.long) for i, level in enumerate(points)])
        if self.norm_on_bbox:
            bbox_preds = [bbox_pred * stride for bbox_pred, stride in zip(bbox_preds, self.strides)]
        cls_logits, distances, centernesses = (
            [level.detach().permute(0, 2, 3, 1).flatten(1, 2) for level in outputs]
            for outputs in (cls_scores, bbox_preds, score_factors)
        )
        # Level by level, as in the reference: PyTorch rounds the end of a tensor, which fills no vector, differently.
        ranked = [
            self.rank_candidates(logits.float(), centerness, cfg)
            for logits, centerness in zip(cls_logits, centernesses)
        ]
        joint, ranks = (torch.cat(levels, dim=1) for levels in zip(*ranked))
        image, point, label = (ranks > -0.5).nonzero().unbind(1)
        best, counts = best_of_groups(
            ranks[image, point, label],
            image * len(points) + level_of[point],
            len(batch_img_metas) * len(points),
            cfg.get('nms_pre'),
        )
        image, point, label = image[best], point[best], label[best]
        image_sizes = filled(points[0], [img_meta['img_shape'][:2] for img_meta in batch_img_metas])[image]
        bboxes, scores = self.decode_candidates(
            torch.cat(points)[point],
            torch.cat(distances, dim=1)[image, point],
            joint[image, point, label],
            image_sizes,
            cfg,
        )
        num_per_img = [sum(counts[i : i + len(points)]) for i in range(0, len(counts), len(points))]
        fields = dict(cells=point) if self.with_cells else {}
        results_list = split(InstanceData(bboxes=bboxes, scores=scores, labels=label, **fields), num_per_img)
        in_one_pass = with_nms and self._nms_in_one_pass(cfg)
        results_list = [
            self._bbox_post_process(
                results, cfg, rescale=rescale, with_nms=with_nms and not in_one_pass, img_meta=img_meta
            )
            for results, img_meta in zip(results_list, batch_img_metas)
        ]
        return self._nms_of_batch(results_list, cfg) if in_one_pass else results_list

    def rank_candidates(self, cls_logits: Tensor, centernesses: Tensor, cfg: ConfigDict) -> tuple[Tensor, Tensor]:
        """Score every point and class of a level, by a test config.

        Class logits have the shape (..., num_points, cls_out_channels) and are float32, centerness logits have the
        shape (..., num_points, 1).

        Returns:
            Class scores times centerness, and the values by which the best ``nms_pre`` are chosen, -1 where the class
            score is not above ``score_thr``. Both have the shape (..., num_points, num_classes).
        """
        # The last channel of a softmax is the background.
        cls_scores = cls_logits.sigmoid() if self.use_sigmoid_cls else cls_logits.softmax(-1)[..., :-1]
        joint = cls_scores * centernesses.float().sigmoid()
        ranks = joint if cfg.get('rank_by_centerness', True) else cls_scores
        return joint, torch.where(cls_scores > cfg.get('score_thr', 0), ranks, -1.0)

    def decode_candidates(
        self, points: Tensor, distances: Tensor, joint: Tensor, image_sizes: Tensor, cfg: ConfigDict
    ) -> tuple[Tensor, Tensor]:
        """Turn chosen points into boxes (..., n, 4) and scores (..., n), by a test config.

        Args:
            points: x, y in pixels of the network's input, shape (..., n, 2).
            distances: Distances to left, top, right, bottom in the same pixels, shape (..., n, 4).
            joint: Class scores times centerness, shape (..., n).
            image_sizes: Height and width of the images without padding, to be broadcast to (..., n, 2).
        """
        boxes = self.bbox_coder.decode(points, distances)
        if cfg.get('clip_boxes', False):
            boxes = clip_boxes(boxes, image_sizes, self.inclusive_boxes)
        return boxes, joint.sqrt() if cfg.get('sqrt_score', True) else joint

    def _bbox_post_process(
        self, results: InstanceData, cfg: ConfigDict, with_nms: bool = True, **kwargs
    ) -> InstanceData:
        max_per_img = cfg.get('max_per_img', -1)
        if not with_nms or max_per_img <= 0:
            return super()._bbox_post_process(results, cfg, with_nms=with_nms, **kwargs)
        results = super()._bbox_post_process(results, ConfigDict(cfg, max_per_img=len(results)), **kwargs)
        if not cfg.get('keep_ties', True):
            return results[:max_per_img]
        if len(results) > max_per_img:
            results = results[results.scores >= results.scores[max_per_img - 1]]
        return results

    def _nms_of_batch(self, results_list: InstanceList, cfg: ConfigDict) -> InstanceList:
        """Run NMS on all classes of all images in one call, and choose the best ``max_per_img`` of each image."""
        results, image = join(results_list)
        groups = image * self.num_classes + results.labels
        kept = class_by_class_nms(results.bboxes, results.scores, groups, cfg.nms.iou_threshold)
        ties = cfg.get('keep_ties', True)
        best, counts = best_of_groups(results.scores[kept], image[kept], len(results_list), cfg.max_per_img, ties)
        return split(results[kept[best]], counts)

    @staticmethod
    def _nms_in_one_pass(cfg: ConfigDict) -> bool:
        nms_cfg = cfg.get('nms') or {}
        plain = nms_cfg.get('type', 'nms') == 'nms' and nms_cfg.keys() <= {'type', 'iou_threshold', 'split_thr'}
        chooses = cfg.get('max_per_img', -1) > 0
        return chooses and cfg.get('one_pass_nms', True) and plain and nms_cfg.get('split_thr') == 0


def class_by_class_nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Run NMS within each class, all classes in one call, and return the indices of the kept boxes, best score first.

    Equal to :func:`mmcv.ops.batched_nms` with ``split_thr=0``, which needs a call and a synchronisation per class.
    Boxes (n, 4) of different classes are moved apart by more than their common extent, in float64 so that no digit is
    lost. A box is removed if its IoU with one of a higher score is above the threshold.
    """
    if len(boxes) == 0:
        return torch.zeros_like(labels)
    boxes = boxes.double()
    extent = boxes.max() - boxes.min() + 1
    return nms(boxes + (labels * extent)[:, None], scores.double(), iou_threshold)
