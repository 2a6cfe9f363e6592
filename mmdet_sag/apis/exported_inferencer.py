from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData
from torch import nn

from ..deployment.formats import load_predictor
from ..deployment.runtime import RuntimeInputError
from ..errors import InputError
from ..structures.mask import RLEMasks


class ExportedInferencer:
    """An exported model in its own runtime, with what :class:`ImagePredictor` uses of a ``DetInferencer``.

    Args:
        path: A model.onnx, model.xml or model.pt, or the folder of one.
        device: Device that it runs on, as the runtime names it.

    Raises:
        InputError: The model cannot be loaded, or is a segmentor, or the device cannot be used.
    """

    def __init__(self, path: str, device: str | None = None) -> None:
        self.predictor = load_predictor(path, device=device or 'CPU')
        metadata = self.predictor.metadata
        if 'semantic' in metadata:
            raise InputError(f'{path} is a segmentor, and this is for detectors: runtime.py beside the model takes it')
        self.cfg = Config(dict(model=dict(type=metadata['model'])))
        self.model: Any = nn.Module()
        self.model.dataset_meta = dict(
            classes=tuple(metadata['classes']), palette=[tuple(colour) for colour in metadata['palette']]
        )

    def preprocess(self, images: Sequence[np.ndarray], batch_size: int = 1) -> Iterator[tuple[None, Sequence]]:
        """Split images, BGR, each (H, W, 3), into batches."""
        return ((None, images[i : i + batch_size]) for i in range(0, len(images), batch_size))

    def forward(self, images: Sequence[np.ndarray]) -> list[DetDataSample]:
        """Predict a batch of images."""
        try:
            results = self.predictor(images)
        except RuntimeInputError as e:
            raise InputError(str(e)) from e
        samples = []
        for image, result in zip(images, results):
            size = image.shape[:2]
            masks = [dict(mask, counts=mask['counts'].encode()) for mask in result['masks']]
            tensors = {name: torch.from_numpy(result[name]) for name in ('scores', 'labels', 'mask_scores')}
            if not self.predictor.metadata['has_mask_scores']:
                del tensors['mask_scores']
            sample = DetDataSample(metainfo=dict(ori_shape=size, img_shape=size))
            sample.pred_instances = InstanceData(
                bboxes=torch.from_numpy(result['boxes']), masks=RLEMasks(masks, *size), **tensors
            )
            if 'panoptic' in result:
                sample.pred_panoptic_seg = PixelData(sem_seg=torch.from_numpy(result['panoptic'])[None])
            samples.append(sample)
        return samples
