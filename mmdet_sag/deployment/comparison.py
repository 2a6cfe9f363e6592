import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from mmdet.registry import DATASETS
from mmdet.utils import ConfigType
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torchvision.ops import box_iou

from ..errors import InputError
from .metadata import test_dataset
from .reference_detector import ReferenceDetector

# What float32 models may differ by: pixels, scores, mask probabilities.
BOUNDS = dict(boxes=0.02, scores=1e-4, mask_probs=1e-3)
# Detections that are so close to the lowest score that is kept may be there or not.
_SCORE_OF_LAST = 1e-4
# Share of the other detections that a float32 model may have and PyTorch's not, or the other way round: where an IoU is
# at the threshold of NMS, rounding decides which of two boxes stays.
_SHARE_BY_ROUNDING = 5e-3


class Agreement(NamedTuple):
    """How close an exported model is to PyTorch's.

    Attributes:
        num_images: Images that both saw.
        num_detections: Detections of PyTorch's model that count.
        num_found: Those of them that the exported model has too: of the same class, and, in a float32 model, with the
            box within the bound, else with a box of an IoU of at least 0.8.
        num_surplus: Detections of the exported model that PyTorch's does not have.
        boxes: Largest difference of a side of a box that was found, in pixels of the network's input.
        scores: Largest difference of a score or mask score of those.
        mask_probs: Largest difference of a mask probability of those.
    """

    num_images: int
    num_detections: int
    num_found: int
    num_surplus: int
    boxes: float
    scores: float
    mask_probs: float

    def __str__(self) -> str:
        return (
            f'{self.num_found} of {self.num_detections} detections on {self.num_images} images found, '
            f'{self.num_surplus} more; largest difference: boxes {self.boxes:.1e} px, scores {self.scores:.1e}, mask '
            f'probabilities {self.mask_probs:.1e}'
        )


def config_images(cfg: Config, num_images: int, dataset: ConfigType = None) -> Iterator[dict]:
    """Images of a data set, spread evenly over it, as batches of one for a data preprocessor.

    Args:
        cfg: The config, whose test pipeline loads them.
        num_images: How many at most.
        dataset: Config of the data set; by default that of ``test_dataloader``.
    """
    pipeline = [step for step in test_dataset(cfg).pipeline if step['type'] != 'LoadAnnotations']
    built = DATASETS.build({**(dataset or test_dataset(cfg)), 'pipeline': pipeline, 'test_mode': True})
    count = min(num_images, len(built))
    return (pseudo_collate([built[i * len(built) // count]]) for i in range(count))


def compare(detector: nn.Module, model: Callable, batches: Iterator[dict], precision: str) -> Agreement:
    """Compare an exported model with the detector that it was made of.

    Args:
        detector: The detector, in evaluation mode.
        model: The exported model.
        batches: Batches for the detector's data preprocessor.
        precision: The exported model's precision. Only detections that score at least 0.3 count unless it is ``fp32``.

    Raises:
        InputError: They disagree by more than :data:`BOUNDS`, or, unless it is ``fp32``, on half of the detections.
    """
    exact = precision == 'fp32'
    reference = ReferenceDetector(detector)
    counts, worst, num_images = dict.fromkeys(('detections', 'found', 'surplus'), 0), dict.fromkeys(BOUNDS, 0.0), 0
    for batch in batches:
        expected_list, found_list = run_both(detector, reference, model, batch)
        for expected, found in zip(expected_list, found_list):
            num_images += 1
            missing, surplus, pairs = _match(expected, found, exact)
            counts['detections'] += len(missing) + len(pairs)
            counts['found'] += len(pairs)
            counts['surplus'] += len(surplus)
            for name, difference in _differences(expected, found, pairs).items():
                worst[name] = max(worst[name], difference)
    agreement = Agreement(num_images, *(counts[key] for key in ('detections', 'found', 'surplus')), **worst)
    _judge(agreement, exact)
    return agreement


def run_both(
    detector: nn.Module, reference: ReferenceDetector, model: Callable, batch: dict
) -> tuple[list[InstanceData], list[InstanceData]]:
    """What PyTorch's and the exported model find in each image of a batch."""
    images, samples, arrays = prepare(detector, batch)
    outputs = {name: torch.from_numpy(array) for name, array in model(*arrays).items()}
    found = []
    for i in range(len(samples)):
        of_image = outputs['image_indices'] == i
        found.append(
            InstanceData(
                bboxes=outputs['boxes'][of_image],
                **{name: outputs[name][of_image] for name in ('scores', 'labels', 'mask_scores', 'mask_probs')},
            )
        )
    return reference(images, samples), found


def prepare(detector: nn.Module, batch: dict) -> tuple[Tensor, list, tuple]:
    """Images and data samples for a detector, and the arrays that an exported model takes."""
    data = detector.data_preprocessor(batch, False)
    sizes = torch.tensor([sample.img_shape[:2] for sample in data['data_samples']])
    return data['inputs'], data['data_samples'], (data['inputs'].cpu().numpy(), sizes.numpy())


def measure_speed(
    detector: nn.Module, models: dict[str, Callable], batch: dict, num_runs: int, num_warmup: int = 2
) -> dict[str, float]:
    """Time PyTorch's model and exported ones in turns, from the image tensor to detections with mask probabilities.

    Returns:
        Median seconds of each, PyTorch's under the name ``PyTorch``.
    """
    reference = ReferenceDetector(detector)
    images, samples, arrays = prepare(detector, batch)
    runs = {'PyTorch': lambda: reference(images, samples)}
    runs.update({name: lambda model=model: model(*arrays) for name, model in models.items()})
    seconds = {name: [] for name in runs}
    for _ in range(num_warmup + num_runs):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[num_warmup:]) for name, values in seconds.items()}


def _match(expected: InstanceData, found: InstanceData, exact: bool) -> tuple[list[int], list[int], list[tuple]]:
    """Detections of PyTorch's model that were not found, those that it does not have, and pairs of the rest."""
    pairs, free = [], set(range(len(found)))
    for i in range(len(expected)):
        same_class = [j for j in free if found.labels[j] == expected.labels[i]]
        if not same_class:
            continue
        if exact:
            distances = (found.bboxes[same_class] - expected.bboxes[i]).abs().amax(dim=1)
            distances = distances + (found.scores[same_class] - expected.scores[i]).abs()
            fits = distances.min() <= BOUNDS['boxes'] + BOUNDS['scores']
        else:
            distances = -box_iou(expected.bboxes[i : i + 1], found.bboxes[same_class])[0]
            fits = distances.min() <= -0.8
        if fits:
            nearest = same_class[int(distances.argmin())]
            free.remove(nearest)
            pairs.append((i, nearest))
    lost = sorted(set(range(len(expected))) - {i for i, _ in pairs})
    if exact:
        # What rounding may put on either side of the lowest score.
        last = min((float(part.scores.min()) for part in (expected, found) if len(part)), default=0.0)
        return (
            [i for i in lost if expected.scores[i] > last + _SCORE_OF_LAST],
            [j for j in free if found.scores[j] > last + _SCORE_OF_LAST],
            pairs,
        )
    return (
        [i for i in lost if expected.scores[i] >= 0.3],
        [j for j in free if found.scores[j] >= 0.3],
        [(i, j) for i, j in pairs if expected.scores[i] >= 0.3],
    )


def _differences(expected: InstanceData, found: InstanceData, pairs: list[tuple]) -> dict[str, float]:
    if not pairs:
        return {}
    left, right = (list(indices) for indices in zip(*pairs))
    largest = {
        key: float((expected[key][left] - found[key][right]).abs().max())
        for key in ('bboxes', 'scores', 'mask_scores', 'mask_probs')
    }
    return dict(
        boxes=largest['bboxes'],
        scores=max(largest['scores'], largest['mask_scores']),
        mask_probs=largest['mask_probs'],
    )


def _judge(agreement: Agreement, exact: bool) -> None:
    if exact:
        too_far = any(getattr(agreement, name) > bound for name, bound in BOUNDS.items())
        different = max(agreement.num_detections - agreement.num_found, agreement.num_surplus)
        failed = too_far or different > _SHARE_BY_ROUNDING * agreement.num_detections
    else:
        failed = agreement.num_found < 0.5 * agreement.num_detections
    if failed:
        raise InputError(f"the exported model disagrees with PyTorch's, so it is not kept: {agreement}")
