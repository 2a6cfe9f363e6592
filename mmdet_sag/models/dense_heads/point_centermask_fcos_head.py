import torch
from mmdet.registry import MODELS
from mmdet.utils import ConfigType, InstanceList, OptInstanceList
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .centermask_fcos_head import CenterMaskFCOSHead
from .point_mask_mixin import PointDetections, PointMaskMixin


@MODELS.register_module()
class PointCenterMaskFCOSHead(PointMaskMixin, CenterMaskFCOSHead):
    """FCOS head with a mask from the location of each detection.

    :class:`PointMaskMixin` describes the masks. Chosen here: the shape branch runs on every level, and a detection's
    shape is that of the location which found it. The saliency is one map, of the finest level. In training, positive
    locations make masks of the ground truth's boxes.

    Source: `CenterMask: Single Shot Instance Segmentation with Point Representation
    <https://arxiv.org/abs/2004.04446>`_.

    Further arguments are those of :class:`CenterMaskFCOSHead`. ``shape_size``, ``saliency``, ``mask_size`` and
    ``loss_mask`` are those of :class:`PointCenterMaskHead`, and so is ``mask_thr_binary`` of ``test_cfg``.

    Args:
        max_masks_to_train: Positive locations of an image that learn masks, at most; they are drawn at random.

    Raises:
        InputError: There is neither of the two branches, or ``saliency`` is another word.
    """

    with_cells = True

    def __init__(
        self,
        *args,
        shape_size: int = 32,
        saliency: str | None = 'class-agnostic',
        mask_size: int = 64,
        max_masks_to_train: int = 100,
        loss_mask: ConfigType = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.stride = self.strides[0]
        self.max_masks_to_train = max_masks_to_train
        self.add_mask_branches(
            self.in_channels, self.feat_channels, self.num_classes, shape_size, saliency, mask_size, loss_mask
        )

    def forward(self, x: tuple[Tensor, ...]) -> tuple[list, ...]:
        """Compute the maps of all levels, the finest first.

        Returns:
            Class logits, distances and centernesses of each level, as in :class:`CenterMaskFCOSHead`; and lists of one:
            hidden features of the shape branch at the locations of all levels (N, feat_channels, locations) or None,
            and saliency (N, 1 or num_classes, H, W) of the first level or None.
        """
        shapes = [part.flatten(2) for part in map(self.shape_features, x) if part is not None]
        return *super().forward(x), [torch.cat(shapes, dim=2) if shapes else None], [self.saliency_map(x[0])]

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        centernesses: list[Tensor],
        shapes: list[Tensor | None],
        saliencies: list[Tensor | None],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict:
        """Compute the losses of :class:`CenterMaskFCOSHead` and ``loss_mask``, the mean over the points of the boxes.

        Arguments are what :meth:`forward` returns, and those of ``FCOSHead``: ground truth with ``masks``, and meta
        information with ``batch_input_shape``.
        """
        self.check_stride(cls_scores[0], batch_img_metas)
        losses = super().loss_by_feat(
            cls_scores, bbox_preds, centernesses, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        points = self.prior_generator.grid_priors(
            [level.shape[2:] for level in cls_scores], dtype=torch.float32, device=cls_scores[0].device
        )
        # The target's label says which object it is, below 0: num_classes is the background.
        numbered = [
            InstanceData(bboxes=gt.bboxes, labels=-1 - torch.arange(len(gt), device=gt.labels.device))
            for gt in batch_gt_instances
        ]
        labels, _ = self.get_targets(points, numbered)
        cells, objects = [], []
        for labels_of_img in torch.cat([level.view(len(numbered), -1) for level in labels], dim=1):
            positive = (labels_of_img < 0).nonzero()[:, 0]
            drawn = torch.randperm(len(positive), device=positive.device)[: self.max_masks_to_train]
            cells.append(positive[drawn])
            objects.append(-1 - labels_of_img[cells[-1]])
        losses['loss_mask'] = self.mask_losses(shapes[0], saliencies[0], batch_gt_instances, cells, objects)
        return losses

    def predict_by_feat(  # type: ignore[override]
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        centernesses: list[Tensor],
        shapes: list[Tensor | None],
        saliencies: list[Tensor | None],
        batch_img_metas: list[dict],
        rescale: bool = True,
    ) -> InstanceList:
        """Find objects and their masks in what :meth:`forward` returns.

        Other arguments and results are those of :meth:`predict_masks`; images also have ``batch_input_shape``.
        """
        self.check_stride(cls_scores[0], batch_img_metas)
        results_list = super().predict_by_feat(cls_scores, bbox_preds, centernesses, batch_img_metas)

        def padded(values: list[Tensor]) -> Tensor:
            # To a length of 1 at least.
            return pad_sequence([*values, values[0].new_zeros(1, *values[0].shape[1:])], batch_first=True)[:-1]

        fields = ('bboxes', 'scores', 'labels', 'cells')
        found = PointDetections(*(padded([results[name] for results in results_list]) for name in fields))
        return self.predict_masks(found, shapes[0], saliencies[0], batch_img_metas, rescale)
