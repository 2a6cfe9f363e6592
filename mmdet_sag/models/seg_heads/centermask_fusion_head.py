import torch
import torch.nn.functional as F
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.models.seg_heads import HeuristicFusionHead
from mmdet.registry import MODELS
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from ...structures.mask import RLEMasks


@MODELS.register_module()
class CenterMaskFusionHead(HeuristicFusionHead):
    """Merges instances, those above a score threshold, and semantic segmentation.

    Instances are ranked by their box scores; the predicted mask IoU is not used. ``model.test_cfg.panoptic`` has
    ``score_thr``, the lowest score of an instance (default 0), and the options of ``HeuristicFusionHead``.

    Source: `Panoptic Segmentation <https://arxiv.org/abs/1801.00868>`_, Section 5.
    """

    def _predict_single(self, mask_results: InstanceData, seg_preds: Tensor, **kwargs) -> PixelData:
        # What HeuristicFusionHead does, without reading a number from an accelerator for each instance.
        confident = mask_results[(mask_results.scores >= self.test_cfg.get('score_thr', 0.0)).nonzero().squeeze(1)]
        masks = confident.masks
        if isinstance(masks, RLEMasks):
            masks = masks.to_tensor(device=seg_preds.device)
        order = (-confident.scores).argsort()
        owner = torch.zeros(seg_preds.shape[-2:], dtype=torch.long, device=seg_preds.device)
        for number, mask in enumerate(masks[order], start=1):
            free, area = owner == 0, mask.sum()
            kept = (area > 0) & ((mask & ~free).sum() / (area + 1e-5) <= self.test_cfg.mask_overlap)
            owner = torch.where(mask & free & kept, number, owner)
        # Numbers are given to instances of which something is seen.
        seen = _count(owner, len(order) + 1)[1:] > 0
        segments = F.pad(confident.labels[order] + seen.cumsum(0) * INSTANCE_OFFSET, (1, 0))
        result = torch.where(owner > 0, segments[owner], seg_preds.argmax(dim=0) + self.num_things_classes)
        small = _count(result % INSTANCE_OFFSET, INSTANCE_OFFSET) < self.test_cfg.stuff_area_limit
        small[: self.num_things_classes] = False
        result = torch.where(small[result % INSTANCE_OFFSET], self.num_classes, result)
        return PixelData(sem_seg=result[None].int())


def _count(numbers: Tensor, length: int) -> Tensor:
    """How often each number from 0 to before ``length`` occurs. ``bincount`` would wait for an accelerator."""
    numbers = numbers.flatten()
    return numbers.new_zeros(length).index_add_(0, numbers, torch.ones_like(numbers))
