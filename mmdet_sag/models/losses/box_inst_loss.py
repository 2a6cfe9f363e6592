import logging

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import BoxInstMaskHead
from mmdet.models.losses import DiceLoss
from mmdet.models.utils.misc import unfold_wo_center
from mmdet.registry import MODELS
from mmengine.logging import MessageHub, print_log
from torch import Tensor, nn

# Shares are said after so many steps.
_COUNTED_STEPS = 50


def _share(counts: list[Tensor], part: Tensor, total: Tensor) -> float | None:
    """Count a step; the share over all counted steps after the last of them."""
    counts.append(torch.stack([part, total]))
    if len(counts) < _COUNTED_STEPS:
        return None
    part, total = torch.stack(counts).sum(dim=0)
    return float(part / total.clamp(min=1))


@MODELS.register_module()
class BoxInstLoss(nn.Module):
    """Losses of BoxInst for masks that are predicted in RoIs, and whose objects have a box alone.

    ``loss_mask_project``: the projections of a mask to the axes shall be those of the box, by dice losses.
    ``loss_mask_pairwise``: pairs of neighbouring positions of similar colour, one of them in the box, shall both be
    object or both be background.
    Source: `BoxInst <https://arxiv.org/abs/2012.02310>`_, Sections 3.1 and 3.2.

    Three things differ, since there a mask covers the image, and here an RoI: neighbours are those of the RoI's grid,
    colours are averaged over its cells, and there is ``loss_mask_box``, the cross-entropy of the box: outside of it
    always, and inside while the weight of the pairs is small. A box covers most of an RoI, so that a mask that fills
    the RoI has small projection losses and no pairwise loss. The RoI must reach beyond the box: see ``roi_margin`` of
    :class:`CenterMaskRoIHead`. Masks that first fill their boxes lose the background from the outside in, once the
    pairs count; from random masks, the pairs may as well find the background, whose projections are those of the box.

    After 50 steps, one line of the log says how many pairs in the boxes are similar, and warns if they are few
    or all: then the threshold does not suit the images. When the training is twice as long as the warm-up, it warns if
    masks cover little of their boxes: a row and a column have the projections of a box, too.

    Args:
        pairwise_size: Side of the neighbourhood of a position, odd.
        pairwise_dilation: Distance of its positions. BoxInst's 2 would pair each of the four outputs of a stride-2
            deconvolution, the last layer of a mask head, only with its own kind: masks become grids.
        pairwise_color_thresh: Similarity from which a pair counts: exp(-d / 2) for a distance d of CIELAB colours.
        warmup_iters: Iterations in whose first half masks learn to fill their boxes; in the second, the weight of the
            pairs grows from 0, and that of the inside of the box falls to 0. A resumed training continues them.
        project_weight: Weight of the loss of the projections.
        box_weight: Weight of the cross-entropy of the box; BoxInst has none.
        pairwise_weight: Weight of the loss of the pairs.
    """

    def __init__(
        self,
        pairwise_size: int = 3,
        pairwise_dilation: int = 1,
        pairwise_color_thresh: float = 0.3,
        warmup_iters: int = 10000,
        project_weight: float = 1.0,
        box_weight: float = 1.0,
        pairwise_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.pairwise_size = pairwise_size
        self.pairwise_dilation = pairwise_dilation
        self.pairwise_color_thresh = pairwise_color_thresh
        self.warmup_iters = warmup_iters
        self.box_weight = box_weight
        self.pairwise_weight = pairwise_weight
        self._similar: list[Tensor] = []
        self._covered: list[Tensor] = []
        self.loss_project = DiceLoss(use_sigmoid=True, activate=True, eps=5e-6, loss_weight=project_weight)

    def forward(self, mask_preds: Tensor, rois: Tensor, bboxes: Tensor, lab_crops: Tensor) -> dict[str, Tensor]:
        """Compute the losses of mask logits (n, h, w) in RoIs (n, 4), x1, y1, x2, y2 in pixels, n at least 1.

        ``bboxes`` (n, 4) are the boxes of their objects, ``lab_crops`` (n, 3, h, w) the CIELAB colours of the cells of
        the RoIs.

        Returns:
            ``loss_mask_project``, a mean of the RoIs, ``loss_mask_box``, of the positions, and
            ``loss_mask_pairwise``, of the pairs.
        """
        columns = _coverage(rois[:, 0::2], bboxes[:, 0::2], mask_preds.shape[2])
        rows = _coverage(rois[:, 1::2], bboxes[:, 1::2], mask_preds.shape[1])
        loss_project = self.loss_project(mask_preds.amax(1), columns) + self.loss_project(mask_preds.amax(2), rows)

        coverage = rows[:, :, None] * columns[:, None]
        outside, in_box = coverage == 0, coverage >= 0.5
        # Without a training, such as in a test, the weight of the pairs is the full one.
        iteration = MessageHub.get_current_instance().get_info('iter', self.warmup_iters)
        # Masks that do not fill their boxes yet may become lines.
        pairs_weight = min(max(2 * iteration / max(self.warmup_iters, 1) - 1, 0.0), 1.0)
        # -log(1 - p) and -log(p).
        loss_outside, loss_inside = (
            (F.softplus(logits) * part).sum() / part.sum().clamp(min=1)
            for logits, part in ((mask_preds, outside), (-mask_preds, in_box))
        )
        pairs = self.similar_pairs(lab_crops) & in_box[:, None]
        num_pairs = pairs.sum()
        if len(self._similar) < _COUNTED_STEPS:
            self._report_similar(_share(self._similar, num_pairs, in_box.sum() * pairs.shape[1]))
        if iteration > 2 * self.warmup_iters and len(self._covered) < _COUNTED_STEPS:
            self._report_covered(_share(self._covered, ((mask_preds > 0) & in_box).sum(), in_box.sum()))
        # What MMDetection's head of BoxInst computes needs of the head only the neighbourhood.
        disagreement = BoxInstMaskHead.get_pairwise_affinity(self, mask_preds)
        loss_pairwise = (disagreement * pairs).sum() / num_pairs.clamp(min=1)
        return dict(
            loss_mask_project=loss_project,
            loss_mask_box=self.box_weight * (loss_outside + (1 - pairs_weight) * loss_inside),
            loss_mask_pairwise=self.pairwise_weight * pairs_weight * loss_pairwise,
        )

    def _report_covered(self, share: float | None) -> None:
        if share is not None and share < 0.15:
            print_log(
                f'BoxInstLoss: masks cover {share:.0%} of their boxes long after the warm-up: they may be lines. '
                f'Train again with a longer loss_boxes.warmup_iters, which is {self.warmup_iters}',
                'current',
                logging.WARNING,
            )

    def _report_similar(self, share: float | None) -> None:
        if share is None:
            return
        said = f'{share:.0%} of the neighbours in boxes have a similar colour'
        if 0.2 <= share <= 0.98:
            print_log(f'BoxInstLoss: {said}', 'current')
            return
        change, what = ('Lower', 'may fill their boxes') if share < 0.2 else ('Raise', 'may leak')
        print_log(
            f'BoxInstLoss: {said}, so that masks {what}. {change} loss_boxes.pairwise_color_thresh, which is '
            f'{self.pairwise_color_thresh:g}',
            'current',
            logging.WARNING,
        )

    def similar_pairs(self, lab_crops: Tensor) -> Tensor:
        """Whether the CIELAB colours (n, 3, h, w) of each position and its neighbours inside the RoI are similar.

        The result is bool and has the shape (n, pairwise_size ** 2 - 1, h, w).
        """
        neighbours, inside = (
            unfold_wo_center(maps, self.pairwise_size, self.pairwise_dilation)
            for maps in (lab_crops, torch.ones_like(lab_crops[:, :1]))
        )
        distances = torch.linalg.vector_norm(lab_crops[:, :, None] - neighbours, dim=1)
        return (torch.exp(-0.5 * distances) >= self.pairwise_color_thresh) & (inside[:, 0] > 0)


def _coverage(rois: Tensor, bboxes: Tensor, size: int) -> Tensor:
    """Share of each of ``size`` cells of RoIs (n, 2) that boxes (n, 2) cover, along one axis, shape (n, size)."""
    steps = torch.linspace(0, 1, size + 1, device=rois.device, dtype=rois.dtype)
    borders = torch.lerp(rois[:, :1], rois[:, 1:], steps)
    first, last = borders[:, :-1], borders[:, 1:]
    covered = torch.minimum(last, bboxes[:, 1:]) - torch.maximum(first, bboxes[:, :1])
    return covered.clamp(min=0) / (last - first).clamp(min=1e-6)
