import zipfile
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.utils import ConfigType
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor

from ..errors import InputError
from ..structures.inclusive_boxes import pad_masks, to_exclusive
from ..structures.mask import paste_masks_as_rle
from .runtime import OnnxModel, OpenVINOModel, RuntimeInputError, load_model
from .torchscript_model import TorchScriptModel


@MODELS.register_module()
class ExportedDetector(BaseModel):
    """An exported model in the place of the detector, for what evaluates detectors.

    Args:
        model_file: A model.onnx, model.xml or model.pt.
        data_preprocessor: Config of the data preprocessor.
        classes: Names of the classes that the model is to have.
        num_threads: Threads that it works with; by default as many as there are cores.

    Raises:
        InputError: The model cannot be used, or has other classes.
    """

    def __init__(
        self,
        model_file: str,
        data_preprocessor: ConfigType,
        classes: tuple[str, ...] | None = None,
        num_threads: int = 0,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.model_file = model_file
        self.model = load_exported(model_file, num_threads)
        metadata = self.model.metadata
        if classes is not None and list(classes) != metadata['classes']:
            raise InputError(
                f'{model_file}: finds {len(metadata["classes"])} classes ({metadata["classes"][0]} ...), the data set '
                f'has {len(classes)} ({classes[0]} ...); give the config that it was exported with'
            )

    def forward(self, inputs: Tensor, data_samples: SampleList, mode: str = 'predict') -> SampleList:
        """Detect objects and their masks.

        Args:
            inputs: Images of shape (N, 3, H, W), from the data preprocessor.
            data_samples: Data samples with the images' meta information.
            mode: ``'predict'``; an exported model can do nothing else.

        Returns:
            The data samples with ``pred_instances``, as from a detector, masks as :class:`RLEMasks`.
        """
        if mode != 'predict':
            raise NotImplementedError(f'an exported model has no mode {mode}')
        sizes = torch.tensor([sample.img_shape[:2] for sample in data_samples])
        try:
            outputs = self.model(inputs.cpu().numpy(), sizes.numpy())
        except RuntimeInputError as e:
            raise InputError(f'{self.model_file}: {e}') from e
        outputs = {name: torch.from_numpy(array) for name, array in outputs.items()}
        metadata = self.model.metadata
        for i, sample in enumerate(data_samples):
            of_image = outputs['image_indices'] == i
            boxes, probs = outputs['boxes'][of_image], outputs['mask_probs'][of_image]
            boxes = boxes / boxes.new_tensor(sample.scale_factor).repeat(2)
            results = InstanceData(bboxes=boxes, scores=outputs['scores'][of_image], labels=outputs['labels'][of_image])
            if metadata['has_mask_scores']:
                results.mask_scores = outputs['mask_scores'][of_image]
            if metadata['inclusive_boxes']:
                results.bboxes = to_exclusive(boxes)
                probs, boxes = pad_masks(probs, boxes, value=0.0)
            results.masks = paste_masks_as_rle(probs, boxes, *sample.ori_shape[:2], metadata['mask_thr'])
            sample.pred_instances = results
        return data_samples


def is_exported(path: str) -> bool:
    """Whether a file is an exported model, or would be, and not a checkpoint."""
    if not path.endswith('.pt'):
        return path.endswith(('.onnx', '.xml'))
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any('/code/' in name for name in archive.namelist())


def load_exported(path: str, num_threads: int = 0) -> OnnxModel | OpenVINOModel | TorchScriptModel:
    """Load an exported model of any format.

    Raises:
        InputError: It cannot be used.
    """
    try:
        if Path(path).suffix == '.pt' and Path(path).is_file():
            return TorchScriptModel(Path(path), num_threads)
        return load_model(path, num_threads)
    except RuntimeInputError as e:
        raise InputError(str(e)) from e
