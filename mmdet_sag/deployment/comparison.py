import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample, SampleList
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn
from torchvision.ops import box_iou

from ..errors import InputError
from ..models.detectors import PanopticCenterMask
from ..models.layers.group_selection import of_class
from .exported_detector import detect, model_inputs, prepares_images, read_image
from .graphs.preprocessed_graph import PreprocessedGraph
from .runtime import Predictor, decode_mask

# Largest differences of float32 models: pixels, scores, mask probabilities.
BOUNDS = dict(boxes=0.02, scores=1e-4, mask_probs=1e-3)
# Of the runtime's own work: levels of 0 to 255, as Pillow's versions differ, and the share of the masks' pixels.
LARGEST_INPUT, _LARGEST_MASKS = 1.01, 1e-3
# In float32, rounding decides whether detections that are this close to the lowest score are kept.
_SCORE_OF_LAST = 1e-4
# Share of the other detections that only one of two float32 models may have: where an IoU is at the threshold of NMS,
# rounding decides which of two boxes is kept.
_SHARE_BY_ROUNDING = 5e-3
# In other precisions, detections count from this score on, and are the same from this IoU on.
_LOWEST_SCORE, _LOWEST_IOU = 0.3, 0.8
# At most this share of them may be missing, and as many be new; their scores may differ by so much on average.
_SHARE_BY_PRECISION, _SCORE_BY_PRECISION = 0.5, 0.1


class Agreement(NamedTuple):
    """How close an exported model is to PyTorch's.

    Attributes:
        num_detections: Detections of PyTorch's model that count.
        num_found: Those of them that the exported model has too: of the same class, and with the box within the bound
            in float32, or with a box of an IoU of at least 0.8 in other precisions.
        num_surplus: Detections of the exported model that PyTorch's does not have.
        boxes: Largest difference of a side of a found box, in pixels of the network's input.
        scores, mask_probs: Largest difference of a score or mask score, and of a mask probability, of these; or of a
            semantic probability.
        inputs: Largest difference between the images that the runtime reads and prepares and PyTorch's, in levels of 0
            to 255.
        masks: Share of the masks' pixels in which the run lengths that the runtime makes of PyTorch's outputs differ;
            or of an image's in which the panoptic segmentation does.
    """

    num_images: int
    num_detections: int
    num_found: int
    num_surplus: int
    boxes: float
    scores: float
    mask_probs: float
    inputs: float
    masks: float

    def __str__(self) -> str:
        return (
            f'{self.num_found} of {self.num_detections} detections on {self.num_images} images found, '
            f'{self.num_surplus} more; largest difference: boxes {self.boxes:.1e} px, scores {self.scores:.1e}, mask '
            f'probabilities {self.mask_probs:.1e}, inputs {self.inputs:.1e} of 255, {self.masks:.1e} of mask pixels'
        )


def compare(
    detector: nn.Module, predictor: Predictor, batches: Iterator[dict], precision: str, backend_args: dict | None = None
) -> Agreement:
    """Compare an exported model and its runtime with the detector, in evaluation mode, that it was exported from.

    From the image file to the network's input, from there to mask probabilities, and from these to run lengths. Except
    in ``fp32``, only detections that score at least 0.3 count.

    Raises:
        InputError: They disagree by more than :data:`BOUNDS`, or, except in ``fp32``, on half of the detections or on
            scores; or nothing was detected, so that nothing can be compared.
    """
    exact = precision == 'fp32'
    counts, worst = Counter(), dict.fromkeys((*BOUNDS, 'inputs', 'masks'), 0.0)
    score_differences: list[float] = []
    for batch in batches:
        images, data_samples = preprocess(detector, batch, predictor.metadata.get('input_size'))
        prepared = [prepare(predictor, sample, backend_args) for sample in data_samples]
        worst['inputs'] = largest(worst['inputs'], *input_differences(predictor, images, data_samples, prepared))
        if prepares_images(predictor.model):
            # Its images are not rounded to levels, and the detections of these are to be the same.
            images = torch.cat(prepared)
        inputs = images, data_samples
        detections = detect_with_pytorch(detector, *inputs)
        worst['masks'] = largest(worst['masks'], *_finish_differences(detector, predictor, detections, *inputs))
        for expected, found in zip(detections, detect(predictor.model, *inputs, backend_args)):
            num_missing, num_surplus, pairs = _match(expected, found, exact)
            score_differences += [float(abs(expected.scores[i] - found.scores[j])) for i, j in pairs]
            counts.update(
                num_images=1, num_detections=num_missing + len(pairs), num_found=len(pairs), num_surplus=num_surplus
            )
            for name, difference in _differences(expected, found, pairs).items():
                worst[name] = largest(worst[name], difference)
            if 'semantic_logits' in found:
                probs, own = (part.semantic_logits.softmax(dim=0) for part in (expected, found))
                worst['mask_probs'] = largest(worst['mask_probs'], float((probs - own).abs().max()))
    agreement = Agreement(*(counts[name] for name in Agreement._fields[:4]), **worst)
    different = max(agreement.num_detections - agreement.num_found, agreement.num_surplus)
    if exact:
        too_far = any(worst[name] > bound for name, bound in BOUNDS.items())
        failed = too_far or different > _SHARE_BY_ROUNDING * agreement.num_detections
    else:
        too_far = sum(score_differences) > _SCORE_BY_PRECISION * len(score_differences)
        failed = too_far or different > _SHARE_BY_PRECISION * agreement.num_detections
    failed = failed or worst['inputs'] > LARGEST_INPUT or worst['masks'] > _LARGEST_MASKS or math.inf in worst.values()
    if not agreement.num_detections and not failed:
        raise InputError(
            f"PyTorch's model detects nothing{'' if exact else ' that scores 0.3'} on {agreement.num_images} images: "
            'nothing can be compared: give a trained checkpoint, more --images, or --images 0 to export it unseen'
        )
    if failed:
        raise InputError(f"the exported model disagrees with PyTorch's, so it is not kept: {agreement}")
    return agreement


@torch.inference_mode()
def detect_with_pytorch(detector: nn.Module, images: Tensor, data_samples: SampleList) -> InstanceList:
    """Detect objects by the own ``predict`` of a detector with a mask head, in evaluation mode.

    The other arguments and the result are those of :func:`detect`.
    """
    found: dict[int, InstanceData] = {}
    logits: list[Tensor] = []

    def record(mask_preds: Sequence[Tensor], results_list: InstanceList, *args, activate_map=False, **kwargs):
        for i, (results, preds) in enumerate(zip(results_list, mask_preds)):
            preds = of_class(torch.as_tensor(preds), results.labels)
            found[i] = InstanceData(
                bboxes=results.bboxes, labels=results.labels, mask_probs=preds if activate_map else preds.sigmoid()
            )
        return results_list

    def record_logits(feats: tuple[Tensor, ...], *args, **kwargs):
        logits.extend(detector.semantic_head(feats)['seg_preds'])

    # The method that pastes the masks into the images is replaced, and of a panoptic model all that follows.
    owner = detector.roi_head if hasattr(detector, 'roi_head') else detector.bbox_head
    if hasattr(owner, 'paste_masks'):
        replaced = [(owner, 'paste_masks', record)]
    else:
        heads = owner.mask_head if isinstance(owner.mask_head, nn.ModuleList) else [owner.mask_head]
        replaced = [(head, 'predict_by_feat', record) for head in heads]
    if isinstance(detector, PanopticCenterMask):
        replaced.append((detector.semantic_head, 'predict', record_logits))
        replaced.append((detector.panoptic_fusion_head, 'predict', lambda results, *_: [PixelData() for _ in results]))
    for owner, name, function in replaced:
        setattr(owner, name, function)
    try:
        predicted = detector.predict(images, data_samples, rescale=False)
    finally:
        for owner, name, _ in replaced:
            delattr(owner, name)
    none = images.new_zeros(0)
    nothing = InstanceData(
        bboxes=none.view(0, 4), scores=none, labels=none.long(), mask_scores=none, mask_probs=none.view(0, 1, 1)
    )
    for i, results in found.items():
        # Mask Scoring R-CNN changes them after the masks.
        results.scores = predicted[i].pred_instances.scores
        results.mask_scores = predicted[i].pred_instances.get('mask_scores', results.scores)
    results_list = [found.get(i, nothing.clone()) for i in range(len(data_samples))]
    for results, own in zip(results_list, logits):
        results.set_metainfo(dict(semantic_logits=own))
    return results_list


def preprocess(detector: nn.Module, batch: dict, size: Sequence[int] | None = None) -> tuple[Tensor, SampleList]:
    """Images and data samples of a batch for a detector, padded to a height and width, if there is a ``size``."""
    data = detector.data_preprocessor(batch, False)
    images = data['inputs']
    if size is not None:
        missing = [side - own for side, own in zip(size, images.shape[2:])]
        images = F.pad(images, (0, missing[1], 0, missing[0]), value=detector.data_preprocessor.pad_value)
    return images, data['data_samples']


def measure_speed(
    detector: nn.Module,
    models: dict[str, Callable],
    batch: dict,
    num_runs: int,
    num_warmup: int = 2,
    run_pytorch: Callable = detect_with_pytorch,
) -> dict[str, float]:
    """Median seconds of ``PyTorch`` and of exported models in turns, from the image tensor to the models' outputs."""
    inputs = preprocess(detector, batch)
    arrays = model_inputs(*inputs)
    runs: dict[str, Callable] = {'PyTorch': partial(run_pytorch, detector, *inputs)}
    for name, model in models.items():
        given = (read_image(inputs[1][0])[None],) if prepares_images(model) else arrays
        runs[name] = partial(model, *given)
    return in_turns(runs, num_runs, num_warmup)


def in_turns(runs: dict[str, Callable], num_runs: int, num_warmup: int = 2) -> dict[str, float]:
    """Median seconds of functions that run in turns, so that what else a machine does slows all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(num_warmup + num_runs):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[num_warmup:]) for name, values in seconds.items()}


def prepare(predictor: Predictor, sample: DetDataSample, backend_args: dict | None) -> Tensor:
    """The image of a sample's file, (1, 3, H, W), as the runtime prepares it, or the graph, computed by PyTorch."""
    image = read_image(sample, backend_args)
    if not prepares_images(predictor.model):
        inputs, sizes = (torch.from_numpy(array) for array in predictor.prepare([image]))
    else:
        settings, size = predictor.metadata['preprocessing'], predictor.metadata['input_size']
        inputs, sizes = PreprocessedGraph(nn.Identity(), settings, size).prepare(torch.from_numpy(image)[None])
    if sizes[0].tolist() != [*sample.img_shape[:2]]:
        raise InputError(
            f'the runtime resizes {sample.img_path} to {"x".join(map(str, sizes[0].tolist()))}, but the test pipeline '
            f'to {"x".join(map(str, sample.img_shape[:2]))}: remove settings from its transforms that change the image'
        )
    return inputs


def largest(*differences: float) -> float:
    """The largest difference: infinite if one is not a number, which ``max`` passes over."""
    return math.inf if any(map(math.isnan, differences)) else max(differences)


def input_differences(
    predictor: Predictor, images: Tensor, data_samples: SampleList, prepared: Sequence[Tensor]
) -> Iterator[float]:
    """Largest difference of each image that was prepared from its file, in levels of 0 to 255."""
    levels = torch.tensor(predictor.metadata['preprocessing']['std']).view(3, 1, 1)
    for expected, sample, found in zip(images.cpu(), data_samples, prepared):
        height, width = sample.img_shape[:2]
        difference = (found[0, :, :height, :width] - expected[:, :height, :width]).abs() * levels
        yield float(difference.max())


@torch.inference_mode()
def _finish_differences(
    detector: nn.Module, predictor: Predictor, detections: InstanceList, images: Tensor, data_samples: SampleList
) -> Iterator[float]:
    """Share of the masks' pixels of each image that differ where the runtime finishes PyTorch's detections."""
    for sample, results in zip(detector.predict(images, data_samples, rescale=True), detections):
        outputs = {name: results[name].numpy() for name in ('scores', 'labels', 'mask_scores', 'mask_probs')}
        outputs['boxes'] = results.bboxes.numpy()
        if 'semantic_logits' in results:
            outputs['semantic_logits'] = results.semantic_logits.numpy()
        found = predictor.finish(outputs, sample.ori_shape, sample.img_shape)
        masks = sample.pred_instances.masks
        expected = masks.cpu().numpy() if isinstance(masks, Tensor) else masks.to_ndarray()
        pairs = [(mask, decode_mask(other)) for mask, other in zip(expected.astype(bool), found['masks'])]
        different, total = (sum(int(method(*pair).sum()) for pair in pairs) for method in (np.not_equal, np.logical_or))
        far = np.abs(found['boxes'] - sample.pred_instances.bboxes.numpy()) > BOUNDS['boxes']
        yield 1.0 if far.any() else different / max(total, 1)
        if 'panoptic' in found:
            yield float((found['panoptic'] != sample.pred_panoptic_seg.sem_seg[0].numpy()).mean())


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
    return dict(boxes=boxes, scores=largest(scores, mask_scores), mask_probs=mask_probs)
