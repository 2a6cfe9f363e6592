from typing import NamedTuple

import torch
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn


class ReferenceDetector:
    """What a detector finds before masks are pasted, as it is computed without any export.

    The detector itself runs; only where its mask head would paste the masks into the images, the results are taken.

    Args:
        detector: A detector with a mask head, in evaluation mode.
    """

    def __init__(self, detector: nn.Module) -> None:
        self.detector = detector
        mask_head = detector.roi_head.mask_head
        self._mask_heads = list(mask_head) if isinstance(mask_head, nn.ModuleList) else [mask_head]

    @torch.inference_mode()
    def __call__(self, images: Tensor, data_samples: SampleList) -> list[InstanceData]:
        """Detect objects.

        Args:
            images: Normalized images of shape (N, 3, H, W).
            data_samples: Data samples with the images' meta information.

        Returns:
            ``bboxes``, ``scores``, ``labels``, ``mask_scores`` and ``mask_probs`` (n, h, w) of each image.
        """
        results = [_nothing(images) for _ in data_samples]
        for head in self._mask_heads:
            head.predict_by_feat = _Recorder(results)
        try:
            self.detector.predict(images, data_samples, rescale=False)
        finally:
            for head in self._mask_heads:
                del head.predict_by_feat
        return results


class _Recorder(NamedTuple):
    """Stands for a mask head's ``predict_by_feat``."""

    results: list[InstanceData]

    def __call__(
        self,
        mask_preds: list[Tensor] | tuple[Tensor, ...],
        results_list: InstanceList,
        batch_img_metas: list[dict],
        rcnn_test_cfg: ConfigDict,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> InstanceList:
        for i, (found, preds) in enumerate(zip(results_list, mask_preds)):
            preds = torch.as_tensor(preds)
            labels = found.labels if preds.shape[1] > 1 else torch.zeros_like(found.labels)
            preds = preds[torch.arange(len(labels)), labels]
            self.results[i] = InstanceData(
                bboxes=found.bboxes,
                scores=found.scores,
                labels=found.labels,
                mask_scores=found.get('mask_scores', found.scores),
                mask_probs=preds if activate_map else preds.sigmoid(),
            )
        return results_list


def _nothing(images: Tensor) -> InstanceData:
    none = images.new_zeros(0)
    return InstanceData(
        bboxes=none.view(0, 4), scores=none, labels=none.long(), mask_scores=none, mask_probs=none.view(0, 1, 1)
    )
