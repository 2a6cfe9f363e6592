import torch
from mmdet.models.losses import GIoULoss
from mmdet.models.losses.utils import weighted_loss
from mmdet.registry import MODELS
from torch import Tensor


@weighted_loss
def smoothed_giou_loss(pred: Tensor, target: Tensor, smoothing: float, eps: float) -> Tensor:
    """1 - GIoU of aligned boxes, with ``smoothing`` added to the areas of the IoU term. Boxes are (n, 4) xyxy."""
    pred_wh = (pred[:, 2:] - pred[:, :2]).clamp(min=0)
    target_wh = (target[:, 2:] - target[:, :2]).clamp(min=0)
    inter_wh = (torch.min(pred[:, 2:], target[:, 2:]) - torch.max(pred[:, :2], target[:, :2])).clamp(min=0)
    hull_wh = torch.max(pred[:, 2:], target[:, 2:]) - torch.min(pred[:, :2], target[:, :2])

    inter = inter_wh.prod(dim=1)
    union = pred_wh.prod(dim=1) + target_wh.prod(dim=1) - inter
    hull = hull_wh.prod(dim=1).clamp(min=eps)
    iou = (inter + smoothing) / (union + smoothing).clamp(min=eps)
    return 1 - iou + (hull - union) / hull


@MODELS.register_module()
class SmoothedGIoULoss(GIoULoss):
    r"""GIoU loss whose IoU term is :math:`(I + s) / (U + s)`.

    The published CenterMask models were trained with :math:`s = 1` on boxes measured in strides; ``smoothing=0`` is
    the loss of `Generalized IoU <https://arxiv.org/abs/1902.09630>`_. The enclosing-box term is
    :math:`(C - U) / C` in both.

    Args:
        smoothing: The number added to intersection and union, in the squared unit of the boxes.
        eps: Lower bound of the denominators.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Factor of the loss.
    """

    def __init__(
        self, smoothing: float = 1.0, eps: float = 1e-6, reduction: str = 'mean', loss_weight: float = 1.0
    ) -> None:
        super().__init__(eps=eps, reduction=reduction, loss_weight=loss_weight)
        self.smoothing = smoothing

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Compute the loss of aligned boxes (n, 4), xyxy: a scalar, or shape (n, ) when not reduced.

        Arguments are those of ``GIoULoss``. ``weight`` is that of each box, shape (n, ), or of each coordinate, shape
        (n, 4); a box then gets the mean of its four.
        """
        if weight is not None and weight.dim() > 1:
            weight = weight.mean(dim=-1)
        return self.loss_weight * smoothed_giou_loss(
            pred.float(),
            target.float(),
            weight,
            reduction=reduction_override or self.reduction,
            avg_factor=avg_factor,
            smoothing=self.smoothing,
            eps=self.eps,
        )
