from copy import deepcopy
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from mmcv.cnn import ConvAWS2d, GeneralizedAttention
from mmcv.ops import DeformConv2d, ModulatedDeformConv2dPack, SAConv2d
from mmdet.models.detectors import BaseDetector
from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor, GenericRoIExtractor
from mmengine.config import ConfigDict
from torch import Tensor, nn

from ...cpu import give_back
from ...errors import InputError
from ...models.layers import fold_batch_norms
from ..onnx_operators import (
    ExportableDeformConv,
    ExportableRoIAlign,
    ExportableRoIExtractor,
    ExportableSAConv,
    non_max_suppression,
)


class Candidates(NamedTuple):
    """Boxes among which NMS chooses; those with a score of 0 or less are padding.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels of the network's input, shape (N, M, 4).
        scores: Scores of shape (N, M).
        labels: Classes, or other groups that NMS separates, shape (N, M).
        cells: Number of their location among those of all levels, shape (N, M), where it is needed.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    cells: Tensor | None = None


class Outputs(NamedTuple):
    """Outputs of an exported model, by their names in its file.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels of the network's input, clipped to the image, shape (n, 4).
        scores: Scores of shape (n, ).
        labels: Classes of shape (n, ), int64.
        image_indices: Index of each detection's image in the batch, shape (n, ), int64, ascending.
        mask_probs: Mask probabilities of the class, shape (n, h, w).
        mask_scores: Scores that rank the masks, shape (n, ); equal to ``scores`` without a MaskIoU head.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    image_indices: Tensor
    mask_probs: Tensor
    mask_scores: Tensor


class DetectionGraph(nn.Module):
    """A detector from the image tensor to the mask probabilities, as one graph without control flow.

    The detections of all images of a batch are one list of any length. The detector is copied, and its batch norms are
    folded into the convs.

    Args:
        detector: A detector, its weights loaded.
        dtype: Type in which the layers compute. Boxes, scores and their ranking stay float32.
    """

    def __init__(self, detector: BaseDetector, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        detector = deepcopy(detector).eval().requires_grad_(False)
        give_back(detector)
        self.detector = _exportable(fold_batch_norms(_plain(detector))).requires_grad_(False).to(dtype)
        self.dtype = dtype

    def check_test_cfg(self, part: str | None, *limits: str) -> ConfigDict:
        """A part of ``test_cfg``, or all of it; raise an InputError if a limit is not set or its NMS not exported."""
        cfg, name = self.detector.test_cfg, 'test_cfg'
        if part is not None:
            cfg, name = cfg[part], f'{name}.{part}'
        for key in limits:
            if cfg.get(key, -1) <= 0:
                raise InputError(f'{name}.{key} has to be set: an exported model needs a limit')
        if cfg.nms.get('type', 'nms') != 'nms':
            raise InputError(f'{name}.nms.type={cfg.nms.type} cannot be exported, only nms can')
        return cfg

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
    """Run NMS and rank the candidates that it keeps.

    ``offset`` pixels are added to the extents of boxes. ``keep_ties``: those that tie with the last are kept too.

    Returns:
        Index of each image's best candidates, by descending score, and their scores, 0 or less where there are fewer,
        each of shape (N, max_per_img), or (N, M) with ``keep_ties``.
    """
    boxes, scores, labels, _ = candidates
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


def by_prior(outputs: Tensor, channels: int) -> Tensor:
    """Outputs (N, priors * channels, H, W) of a level as (N, H * W * priors, channels), in float32."""
    # Also of layers in half precision: what is decoded and ranked would lose pixels and order.
    return outputs.float().permute(0, 2, 3, 1).reshape(outputs.shape[0], -1, channels)


def top_scores(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best of scores (N, M) and their indices, each (N, count); -1 and 0 where there are fewer."""
    best, index = torch.cat([scores, scores.new_full((1, 1), -1.0).expand(scores.shape[0], count)], 1).topk(count, 1)
    return best, index * (best > -1)


def with_filler(rois: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Append a RoI to RoIs (n, 5) and labels (n, ): OpenVINO's pooling needs at least one."""
    filler = rois.new_tensor([[0.0, 0.0, 0.0, 8.0, 8.0]])
    return torch.cat([rois, filler]), torch.cat([labels, labels.new_zeros(1)])


def _exportable(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, BaseRoIExtractor):
            child.roi_layers = nn.ModuleList(map(ExportableRoIAlign, child.roi_layers))
            # GRoIE's pools each RoI from all levels. Its only branch is for no RoIs.
            if isinstance(child, GenericRoIExtractor):
                _exportable(child)
            else:
                setattr(module, name, ExportableRoIExtractor(child))
        elif isinstance(child, GeneralizedAttention):
            child.get_position_embedding = partial(_position_embedding, child.position_magnitude)
        elif isinstance(child, (DeformConv2d, ModulatedDeformConv2dPack)):
            setattr(module, name, ExportableDeformConv(child))
        else:
            _exportable(child)
    return module


def _position_embedding(
    magnitude: float,
    height: int,
    width: int,
    height_kv: int,
    width_kv: int,
    stride: int,
    stride_kv: int,
    device: torch.device,
    dtype: torch.dtype,
    num_channels: int,
) -> tuple[Tensor, Tensor]:
    """What MMCV's attention computes from sizes alone, as constants: the exporter mistakes the type of a range."""
    waves = 1000 ** (4 / num_channels * np.arange(num_channels // 4))

    def embed(size: int, size_kv: int) -> Tensor:
        distances = np.arange(int(size))[:, None] * stride - np.arange(int(size_kv)) * stride_kv
        angles = distances[..., None] * magnitude / waves
        values = np.concatenate([np.sin(angles), np.cos(angles)], axis=2).tolist()
        return torch.tensor(values, dtype=dtype, device=device)

    return embed(width, width_kv), embed(height, height_kv)


def _plain(module: nn.Module) -> nn.Module:
    """Standardise the weights of DetectoRS's convs for good, which batch norms cannot be folded into otherwise."""
    for name, child in module.named_children():
        if isinstance(child, SAConv2d):
            setattr(module, name, ExportableSAConv(child))
        elif isinstance(child, ConvAWS2d):
            child.weight.data = child._get_weight(child.weight)
            # What it is now.
            child.__class__ = nn.Conv2d
        else:
            _plain(child)
    return module
