import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from mmdet.structures import SampleList
from torch import Tensor, nn

from ..errors import InputError
from .comparison import BOUNDS, LARGEST_INPUT, input_differences, largest, prepare, preprocess
from .exported_detector import model_inputs, read_image
from .runtime import Predictor

# Largest share of an image's pixels whose class may differ, in float32 and in other precisions.
_PIXELS, _PIXELS_BY_PRECISION = 1e-3, 0.05


class SemanticAgreement(NamedTuple):
    """How close an exported segmentor is to PyTorch's.

    Attributes:
        probs: Largest difference of a probability, in the network's output.
        inputs: As in :class:`Agreement`.
        pixels: Largest share of an image's pixels to which the runtime, from the file on, gives another class.
    """

    num_images: int
    probs: float
    inputs: float
    pixels: float

    def __str__(self) -> str:
        return (
            f'{self.num_images} images; largest difference: probabilities {self.probs:.1e}, inputs {self.inputs:.1e} '
            f'of 255, {self.pixels:.1e} of the pixels of an image'
        )


def compare_segmentation(
    segmentor: nn.Module,
    predictor: Predictor,
    batches: Iterator[dict],
    precision: str,
    backend_args: dict | None = None,
) -> SemanticAgreement:
    """Compare an exported model and its runtime with the segmentor, in evaluation mode, that it was exported from.

    Raises:
        InputError: In ``fp32``, probabilities differ by more than 1e-3 or 1 in 1000 pixels has another class; in other
            precisions, 1 in 20; or the prepared images differ by more than a level.
    """
    num_images, probs, inputs, pixels = 0, 0.0, 0.0, 0.0
    for batch in batches:
        images, data_samples = preprocess(segmentor, batch)
        prepared = [prepare(predictor, sample, backend_args) for sample in data_samples]
        inputs = largest(inputs, *input_differences(predictor, images, data_samples, prepared))
        expected = segment_with_pytorch(segmentor, images, data_samples)
        found = torch.from_numpy(predictor.model(*model_inputs(images, data_samples))['semantic_logits'])
        probs = largest(probs, float((_probabilities(found) - _probabilities(expected)).abs().max()))
        for sample in segmentor.postprocess_result(expected, data_samples):
            labels = torch.from_numpy(predictor(read_image(sample, backend_args))['semantic'])
            pixels = max(pixels, float((labels != sample.pred_sem_seg.data[0].cpu()).float().mean()))
            num_images += 1
    agreement = SemanticAgreement(num_images, probs, inputs, pixels)
    exact = precision == 'fp32'
    failed = math.isinf(probs) or inputs > LARGEST_INPUT or pixels > (_PIXELS if exact else _PIXELS_BY_PRECISION)
    if failed or (exact and probs > BOUNDS['mask_probs']):
        raise InputError(f"the exported model disagrees with PyTorch's, so it is not kept: {agreement}")
    return agreement


@torch.inference_mode()
def segment_with_pytorch(segmentor: nn.Module, images: Tensor, data_samples: SampleList) -> Tensor:
    """Logits (N, C, H, W) of normalized images (N, 3, H, W) by the own ``inference`` of a segmentor."""
    return segmentor.inference(images, [sample.metainfo for sample in data_samples])


def _probabilities(logits: Tensor) -> Tensor:
    return logits.softmax(dim=1) if logits.shape[1] > 1 else logits.sigmoid()
