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
        confident = mask_results[mask_results.scores >= self.test_cfg.get('score_thr', 0.0)]
        if isinstance(confident.masks, RLEMasks):
            confident.masks = confident.masks.to_tensor()
        return super()._predict_single(confident, seg_preds, **kwargs)
