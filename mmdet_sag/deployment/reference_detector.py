from typing import NamedTuple

import torch
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..models.roi_heads import CenterMaskRoIHead


class ReferenceDetector:
    """What a detector finds before masks are pasted, as it is computed without any export.

    The detector itself runs; only where its mask head would paste the masks into the images, the results are taken.

    Args:
        detector: A detector with a mask head, in evaluation mode.
    """

    def __init__(self, detector: nn.Module) -> None:
        self.detector = detector
        roi_head = detector.roi_head
        if isinstance(roi_head, CenterMaskRoIHead):
            self._pasting = [(roi_head, 'paste_masks')]
        else:
            heads = roi_head.mask_head if isinstance(roi_head.mask_head, nn.ModuleList) else [roi_head.mask_head]
            self._pasting = [(head, 'predict_by_feat') for head in heads]

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
        for owner, name in self._pasting:
            setattr(owner, name, _Recorder(results))
        try:
            self.detector.predict(images, data_samples, rescale=False)
        finally:
            for owner, name in self._pasting:
                delattr(owner, name)
        return results


class _Recorder(NamedTuple):
    """Replaces the method that pastes masks."""

    results: list[InstanceData]

    def __call__(
        self,
        mask_preds: list[Tensor] | tuple[Tensor, ...],
        results_list: InstanceList,
        batch_img_metas: list[dict],
        rcnn_test_cfg: ConfigDict | None = None,
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
