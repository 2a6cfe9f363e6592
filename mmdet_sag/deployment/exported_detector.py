from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample, SampleList
from mmdet.utils import ConfigType, InstanceList
from mmengine import fileio
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from ..datasets.data_sources import dataset_meta, test_dataset
from ..errors import InputError
from ..models.model_config import type_name
from ..structures.inclusive_boxes import pad_masks, to_exclusive
from ..structures.mask import paste_masks_as_rle
from .formats import load_predictor
from .runtime import Predictor, RuntimeInputError, decode_image, input_names, merge_panoptic

# What use_exported_model loaded, until the detector of its config takes it: a config can only hold the path.
_loaded: dict[tuple[str, int, str], Predictor] = {}


@MODELS.register_module()
class ExportedDetector(BaseModel):
    """An exported model with the interface of a detector, or of a segmentor of MMSegmentation, for evaluation.

    Args:
        model_file: A model.onnx, model.xml or model.pt, or the folder of one.
        data_preprocessor: Config of the data preprocessor.
        classes: Names of the classes that the model must have.
        num_threads: Number of threads; 0: one per core.
        device: Device that it runs on, as the runtime names it.
    """

    def __init__(
        self,
        model_file: str,
        data_preprocessor: ConfigType,
        classes: tuple[str, ...] | None = None,
        num_threads: int = 0,
        device: str = 'CPU',
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        # What wraps a model for several processes takes none without.
        self.no_weight = nn.Parameter(torch.zeros(()))
        predictor = _loaded.pop((model_file, num_threads, device), None)
        self.model = (predictor or load_predictor(model_file, num_threads, device)).model
        metadata = self.model.metadata
        if classes is not None and list(classes) != metadata['classes']:
            raise InputError(
                f'{model_file}: has {len(metadata["classes"])} classes ({metadata["classes"][0]} ...), the data set '
                f'has {len(classes)} ({classes[0]} ...); give the config that it was exported with'
            )

    def forward(self, inputs: Tensor, data_samples: SampleList, mode: str = 'predict') -> SampleList:
        """Detect objects in images (N, 3, H, W): add ``pred_instances``, with :class:`RLEMasks`, to their samples.

        A segmentor adds ``pred_sem_seg`` and ``seg_logits`` instead.
        """
        if mode != 'predict':
            raise NotImplementedError(f'an exported model has no mode {mode}')
        metadata = self.model.metadata
        if 'semantic' in metadata:
            return self._segment(inputs, data_samples)
        for sample, results in zip(data_samples, detect(self.model, inputs, data_samples)):
            probs = results.pop('mask_probs')
            if not metadata['has_mask_scores']:
                del results.mask_scores
            boxes = results.bboxes / results.bboxes.new_tensor(sample.scale_factor).repeat(2)
            results.bboxes = boxes
            if metadata['inclusive_boxes']:
                results.bboxes = to_exclusive(boxes)
                probs, boxes = pad_masks(probs, boxes, value=0.0)
            results.masks = paste_masks_as_rle(probs, boxes, *sample.ori_shape[:2], metadata['mask_thr'])
            sample.pred_instances = results
            if 'semantic_logits' in results:
                own = dict(scores=results.scores.numpy(), labels=results.labels.numpy())
                own['masks'] = [dict(mask, counts=mask['counts'].decode()) for mask in results.masks]
                logits = results.semantic_logits.numpy()
                merged = merge_panoptic(logits, own, sample.ori_shape, sample.img_shape, metadata)
                sample.pred_panoptic_seg = PixelData(sem_seg=torch.from_numpy(merged)[None])
        return data_samples

    def _segment(self, inputs: Tensor, data_samples: SampleList) -> SampleList:
        # An optional package, which is there where its configs are.
        from mmseg.models.segmentors import BaseSegmentor

        settings = self.model.metadata['semantic']
        self.align_corners = settings['align_corners']
        self.decode_head = SimpleNamespace(threshold=settings['threshold'])
        logits = self.model(*model_inputs(inputs, data_samples))['semantic_logits']
        return BaseSegmentor.postprocess_result(self, torch.from_numpy(logits), data_samples)


def fit_images(cfg: Config, size: Sequence[int] | None) -> None:
    """Let a config's test pipeline resize images, by their ratio, to fit into a height and width, if there are any."""
    pipeline = test_dataset(cfg).pipeline
    for i, step in enumerate(pipeline):
        if size is not None and type_name(step) in ('Resize', 'ShortSideResize'):
            pipeline[i] = dict(type='FitResize', scale=size[::-1], backend=step.get('backend', 'cv2'))


def detect(model: Callable, images: Tensor, data_samples: SampleList, backend_args: dict | None = None) -> InstanceList:
    """Detect objects by an exported model in normalized images (N, 3, H, W), up to the mask probabilities.

    A model that prepares images itself gets those of the samples' files. ``bboxes`` are of the normalized images.

    Returns:
        ``bboxes``, ``scores``, ``labels``, ``mask_scores`` and ``mask_probs`` (n, h, w) of each image, and, from a
        panoptic model, ``semantic_logits`` (C, h, w) among the meta information.
    """
    if prepares_images(model):
        found = []
        for sample in data_samples:
            results = _as_instances(model(read_image(sample, backend_args)[None]))
            scale = [own / given for own, given in zip(sample.img_shape[:2], sample.ori_shape[:2])]
            results.bboxes = results.bboxes * results.bboxes.new_tensor([*scale[::-1], *scale[::-1]])
            found.append(results)
        return found
    try:
        arrays = model(*model_inputs(images, data_samples))
    except RuntimeInputError as e:
        raise InputError(str(e)) from e
    image_indices = torch.from_numpy(arrays['image_indices'])
    every = _as_instances(arrays)
    found = [every[image_indices == i] for i in range(len(data_samples))]
    if 'semantic_logits' in arrays:
        for results, logits in zip(found, arrays['semantic_logits']):
            results.set_metainfo(dict(semantic_logits=torch.from_numpy(logits)))
    return found


def _as_instances(arrays: dict[str, np.ndarray]) -> InstanceData:
    names = dict(bboxes='boxes', **{name: name for name in ('scores', 'labels', 'mask_scores', 'mask_probs')})
    return InstanceData(**{name: torch.from_numpy(arrays[array]) for name, array in names.items()})


def prepares_images(model: Callable) -> bool:
    """Whether a model resizes and normalizes images itself."""
    return 'image_sizes' not in input_names(model.metadata)


def read_image(sample: DetDataSample, backend_args: dict | None = None) -> np.ndarray:
    """The image of a data sample as its file has it, blue, green, red, (H, W, 3), uint8.

    Raises:
        InputError: It came without a file.
    """
    if not sample.get('img_path'):
        raise InputError('a model that prepares images itself needs an image file: give --image in place of --size')
    return decode_image(fileio.get(sample.img_path, backend_args))


def model_inputs(images: Tensor, data_samples: SampleList) -> tuple[np.ndarray, np.ndarray]:
    """The arrays that an exported model takes: images, and their sizes without padding."""
    return images.cpu().numpy(), np.array([sample.img_shape[:2] for sample in data_samples])


def use_exported_model(cfg: Config, model_file: str, device: str = 'CPU') -> None:
    """Replace the model of a config by an exported one, which runs on a device of the runtime.

    For a model of one input size, the config's images are resized to fit into that.
    """
    predictor = _loaded[model_file, 0, device] = load_predictor(model_file, device=device)
    fit_images(cfg, predictor.metadata.get('input_size'))
    cfg.model = dict(
        type='mmdet.ExportedDetector',
        model_file=model_file,
        device=device,
        data_preprocessor=cfg.model.data_preprocessor,
        classes=dataset_meta(cfg)['classes'],
    )
    # Hooks such as that of EMA work on layers and weights.
    cfg.custom_hooks = []
