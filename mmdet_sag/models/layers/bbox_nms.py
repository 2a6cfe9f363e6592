import torch
from torch import Tensor
from torchvision.ops import nms


def class_by_class_nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Run NMS within each class, all classes in one call.

    As :func:`mmcv.ops.batched_nms` with ``split_thr=0``, but without a call and a synchronisation per class. Classes
    are set apart by more than the boxes' whole extent, which is exact for boxes off the image too, and in float64, in
    which that loses no digit of the boxes.

    Args:
        boxes: x1, y1, x2, y2 of shape (n, 4).
        scores: Scores of shape (n, ).
        labels: Classes of shape (n, ).
        iou_threshold: IoU above which the box of the lower score goes.

    Returns:
        Indices of the boxes that stay, by descending score.
    """
    if len(boxes) == 0:
        return torch.zeros_like(labels)
    boxes = boxes.double()
    extent = boxes.max() - boxes.min() + 1
    return nms(boxes + (labels * extent)[:, None], scores.double(), iou_threshold)
