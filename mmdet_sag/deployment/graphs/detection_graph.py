from copy import deepcopy
from typing import NamedTuple

import torch
from mmcv.cnn import fuse_conv_bn
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack
from mmdet.models.detectors import BaseDetector
from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor
from torch import Tensor, nn

from ...cpu import give_back
from ..exportable_deform_conv import ExportableDeformConv
from ..exportable_roi_extractor import ExportableRoIExtractor
from ..operators import non_max_suppression


class Candidates(NamedTuple):
    """Boxes among which NMS chooses; those whose score is not above 0 only fill up.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels of the network's input, shape (N, M, 4).
        scores: Scores of shape (N, M).
        labels: Classes, or whatever NMS is to tell apart, shape (N, M).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Outputs(NamedTuple):
    """What an exported model gives; the names are those of the outputs in its file.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels of the network's input, clipped to the image, shape (n, 4).
        scores: Scores of shape (n, ).
        labels: Classes of shape (n, ), int64.
        image_indices: Place of each detection's image in the batch, shape (n, ), int64, ascending.
        mask_probs: Mask probabilities of the class, shape (n, h, w).
        mask_scores: Scores by which masks are ranked, shape (n, ); the scores again in a model without MaskIoU head.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    image_indices: Tensor
    mask_probs: Tensor
    mask_scores: Tensor


class DetectionGraph(nn.Module):
    """A detector from the image tensor to the mask probabilities, as one graph without control flow.

    Detections of all images of a batch stand in one list, of whatever length they have. The detector is copied, and
    its batch norms are folded into the convs.

    Args:
        detector: A detector, its weights loaded.
        dtype: Type that the layers compute in. Boxes, scores and everything that ranks them stay float32.
    """

    def __init__(self, detector: BaseDetector, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        detector = deepcopy(detector).eval().requires_grad_(False)
        give_back(detector)
        self.detector = _exportable(fuse_conv_bn(detector)).requires_grad_(False).to(dtype)
        self.dtype = dtype

    def forward(self, images: Tensor, image_sizes: Tensor) -> Outputs:
        """Detect objects.

        Args:
            images: Normalized images of shape (N, 3, H, W), padded by zeros; H and W are multiples of 32.
            image_sizes: Height and width of each image without padding, shape (N, 2), int64.

        Returns:
            Detections, by image and descending score.
        """
        raise NotImplementedError


def keep_best(
    candidates: Candidates,
    num_labels: int,
    iou_threshold: float,
    max_per_img: int,
    offset: float = 0,
    keep_ties: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run NMS and rank what it keeps.

    Args:
        candidates: Candidates.
        num_labels: Number of different labels.
        iou_threshold: IoU above which the box of the lower score goes.
        max_per_img: Most candidates that are kept of an image.
        offset: What is added to the extents of boxes.
        keep_ties: Whether those are kept that tie with the last.

    Returns:
        Index of each image's best candidates, by descending score, and their scores, 0 or less where there are fewer,
        each of shape (N, max_per_img), or (N, M) with ``keep_ties``.
    """
    boxes, scores, labels = candidates
    if offset:
        boxes = torch.cat([boxes[..., :2], boxes[..., 2:] + offset], dim=-1)
    classes = torch.arange(num_labels, device=labels.device)[:, None]
    class_scores = torch.where(labels[:, None] == classes, scores[:, None], -1.0)
    max_per_img = min(max_per_img, scores.shape[1])
    limit = scores.shape[1] if keep_ties else max_per_img
    image, _, index = non_max_suppression(boxes, class_scores, limit, iou_threshold).unbind(1)
    kept = torch.zeros_like(scores).index_put((image, index), scores[image, index])
    best, order = kept.topk(limit, dim=1)
    if keep_ties:
        best = torch.where(best >= best[:, max_per_img - 1 : max_per_img], best, 0.0)
    return order, best


def take(values: Tensor, index: Tensor) -> Tensor:
    """Take ``values`` (N, M, k) at ``index`` (N, K)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def top_scores(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best of scores (N, M) and their indices, each (N, count); -1 and 0 where there are fewer."""
    best, index = torch.cat([scores, scores.new_full((1, 1), -1.0).expand(scores.shape[0], count)], 1).topk(count, 1)
    return best, index * (best > -1)


def clip(boxes: Tensor, image_sizes: Tensor, extent: float = 0) -> Tensor:
    """Clip boxes (..., 4) to images of sizes (..., 2), which end ``extent`` pixels earlier."""
    limits = (image_sizes.to(boxes.dtype) - extent).flip(-1)
    return torch.minimum(boxes.clamp(min=0), torch.cat([limits, limits], dim=-1))


def with_filler(rois: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """RoIs (n, 5) and labels (n, ) with one more behind: OpenVINO's pooling cannot do with none."""
    filler = rois.new_tensor([[0.0, 0.0, 0.0, 8.0, 8.0]])
    return torch.cat([rois, filler]), torch.cat([labels, labels.new_zeros(1)])


def _exportable(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, BaseRoIExtractor):
            setattr(module, name, ExportableRoIExtractor(child))
        elif isinstance(child, (DeformConv2dPack, ModulatedDeformConv2dPack)):
            setattr(module, name, ExportableDeformConv(child))
        else:
            _exportable(child)
    return module
