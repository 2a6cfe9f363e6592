import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torchvision.ops import box_iou

from ..errors import InputError
from ..models.roi_heads.centermask_roi_head import CenterMaskRoIHead, of_class
from .exported_detector import detect, model_inputs

# Largest differences of float32 models: pixels, scores, mask probabilities.
BOUNDS = dict(boxes=0.02, scores=1e-4, mask_probs=1e-3)
# In float32, rounding decides whether detections that are this close to the lowest score are kept.
_SCORE_OF_LAST = 1e-4
# Share of the other detections that only one of two float32 models may have: where an IoU is at the threshold of NMS,
# rounding decides which of two boxes is kept.
_SHARE_BY_ROUNDING = 5e-3
# In other precisions, detections count from this score on, and are the same from this IoU on.
_LOWEST_SCORE, _LOWEST_IOU = 0.3, 0.8


class Agreement(NamedTuple):
    """How close an exported model is to PyTorch's.

    Attributes:
        num_images: Number of images that were compared.
        num_detections: Detections of PyTorch's model that count.
        num_found: Those of them that the exported model has too: of the same class, and with the box within the bound
            in float32, or with a box of an IoU of at least 0.8 in other precisions.
        num_surplus: Detections of the exported model that PyTorch's does not have.
        boxes: Largest difference of a side of a found box, in pixels of the network's input.
        scores: Largest difference of a score or mask score of these.
        mask_probs: Largest difference of a mask probability of these.
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


def compare(detector: nn.Module, model: Callable, batches: Iterator[dict], precision: str) -> Agreement:
    """Compare an exported model with the detector that it was exported from.

    Args:
        detector: The detector, in evaluation mode.
        model: The exported model.
        batches: Batches for the detector's data preprocessor.
        precision: The exported model's precision. Except in ``fp32``, only detections that score at least 0.3 count.

    Raises:
        InputError: They disagree by more than :data:`BOUNDS`, or, except in ``fp32``, on half of the detections.
    """
    exact = precision == 'fp32'
    counts, worst = Counter(), dict.fromkeys(BOUNDS, 0.0)
    for batch in batches:
        inputs = preprocess(detector, batch)
        for expected, found in zip(detect_with_pytorch(detector, *inputs), detect(model, *inputs)):
            num_missing, num_surplus, pairs = _match(expected, found, exact)
            counts.update(
                num_images=1, num_detections=num_missing + len(pairs), num_found=len(pairs), num_surplus=num_surplus
            )
            for name, difference in _differences(expected, found, pairs).items():
                worst[name] = max(worst[name], difference)
    agreement = Agreement(*(counts[name] for name in Agreement._fields[:4]), **worst)
    if exact:
        too_far = any(worst[name] > bound for name, bound in BOUNDS.items())
        different = max(agreement.num_detections - agreement.num_found, agreement.num_surplus)
        failed = too_far or different > _SHARE_BY_ROUNDING * agreement.num_detections
    else:
        failed = agreement.num_found < 0.5 * agreement.num_detections
    if failed:
        raise InputError(f"the exported model disagrees with PyTorch's, so it is not kept: {agreement}")
    return agreement


@torch.inference_mode()
def detect_with_pytorch(detector: nn.Module, images: Tensor, data_samples: SampleList) -> InstanceList:
    """Detect objects by the own ``predict`` of a detector with a mask head, in evaluation mode.

    The other arguments and the result are those of :func:`detect`.
    """
    found: dict[int, InstanceData] = {}

    def record(mask_preds: Sequence[Tensor], results_list: InstanceList, *args, activate_map=False, **kwargs):
        for i, (results, preds) in enumerate(zip(results_list, mask_preds)):
            preds = of_class(torch.as_tensor(preds), results.labels)
            found[i] = InstanceData(
                bboxes=results.bboxes,
                scores=results.scores,
                labels=results.labels,
                mask_scores=results.get('mask_scores', results.scores),
                mask_probs=preds if activate_map else preds.sigmoid(),
            )
        return results_list

    # The method that pastes the masks into the images is replaced.
    if isinstance(detector.roi_head, CenterMaskRoIHead):
        pasting = [(detector.roi_head, 'paste_masks')]
    else:
        heads = detector.roi_head.mask_head
        pasting = [(head, 'predict_by_feat') for head in (heads if isinstance(heads, nn.ModuleList) else [heads])]
    for owner, name in pasting:
        setattr(owner, name, record)
    try:
        detector.predict(images, data_samples, rescale=False)
    finally:
        for owner, name in pasting:
            delattr(owner, name)
    none = images.new_zeros(0)
    nothing = InstanceData(
        bboxes=none.view(0, 4), scores=none, labels=none.long(), mask_scores=none, mask_probs=none.view(0, 1, 1)
    )
    return [found.get(i, nothing) for i in range(len(data_samples))]


def preprocess(detector: nn.Module, batch: dict) -> tuple[Tensor, SampleList]:
    """Images and data samples of a batch for a detector."""
    data = detector.data_preprocessor(batch, False)
    return data['inputs'], data['data_samples']


def measure_speed(
    detector: nn.Module, models: dict[str, Callable], batch: dict, num_runs: int, num_warmup: int = 2
) -> dict[str, float]:
    """Median seconds of ``PyTorch`` and of exported models in turns, from the image tensor to mask probabilities."""
    inputs = preprocess(detector, batch)
    arrays = model_inputs(*inputs)
    runs: dict[str, Callable] = {'PyTorch': partial(detect_with_pytorch, detector, *inputs)}
    runs.update({name: partial(model, *arrays) for name, model in models.items()})
    seconds = {name: [] for name in runs}
    for _ in range(num_warmup + num_runs):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[num_warmup:]) for name, values in seconds.items()}


def _match(expected: InstanceData, found: InstanceData, exact: bool) -> tuple[int, int, list[tuple[int, int]]]:
    """Number of PyTorch's detections that are missing, number of surplus ones, and pairs of the others."""
    pairs, free = [], set(range(len(found)))
    for i in range(len(expected)):
        same_class = [j for j in free if found.labels[j] == expected.labels[i]]
        if not same_class:
            continue
        if exact:
            distances = (found.bboxes[same_class] - expected.bboxes[i]).abs().amax(dim=1)
            distances = distances + (found.scores[same_class] - expected.scores[i]).abs()
            limit = BOUNDS['boxes'] + BOUNDS['scores']
        else:
            distances = -box_iou(expected.bboxes[i : i + 1], found.bboxes[same_class])[0]
            limit = -_LOWEST_IOU
        if distances.min() <= limit:
            nearest = same_class[int(distances.argmin())]
            free.remove(nearest)
            pairs.append((i, nearest))
    lowest = _LOWEST_SCORE
    if exact:
        lowest = min((float(part.scores.min()) for part in (expected, found) if len(part)), default=0.0)
        lowest += _SCORE_OF_LAST
    missing = set(range(len(expected))) - {i for i, _ in pairs}
    num_missing, num_surplus = (
        int((part.scores[list(left)] >= lowest).sum()) for part, left in ((expected, missing), (found, free))
    )
    return num_missing, num_surplus, [(i, j) for i, j in pairs if exact or expected.scores[i] >= lowest]


def _differences(expected: InstanceData, found: InstanceData, pairs: list[tuple[int, int]]) -> dict[str, float]:
    if not pairs:
        return {}
    left, right = (list(indices) for indices in zip(*pairs))
    boxes, scores, mask_scores, mask_probs = (
        float((expected[name][left] - found[name][right]).abs().max())
        for name in ('bboxes', 'scores', 'mask_scores', 'mask_probs')
    )
    return dict(boxes=boxes, scores=max(scores, mask_scores), mask_probs=mask_probs)
