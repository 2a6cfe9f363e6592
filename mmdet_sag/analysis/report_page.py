import json
from collections import Counter
from collections.abc import Sequence

import mmcv
import numpy as np
import pycocotools.mask as mask_utils
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from . import charts
from .coco_accuracy import SIZES, CocoAccuracy
from .confusion_matrix import confusion_matrix
from .data_statistics import DataStatistics
from .ground_truth import GroundTruth
from .image_figure import Outline, display_size, encode_image, image_figure
from .image_result import ImageResult
from .matched_image import MatchedImage, Outcome
from .score_thresholds import THRESHOLDS, ScoreThresholds

_WRONG = (Outcome.WRONG_CLASS, Outcome.INACCURATE, Outcome.DUPLICATE, Outcome.NOTHING_THERE)


class ReportPage:
    """A page on how good a model is, where it fails, and on what data: HTML that needs no other file.

    Args:
        truth: Annotated objects.
        results: Predictions.
        colours: CSS colour of each class.
        score_thr: Lowest score of the detections that errors and pictures are about; None: the one with the best F1.
        num_examples: Pictures of each kind.
    """

    def __init__(
        self,
        truth: GroundTruth,
        results: Sequence[ImageResult],
        colours: Sequence[str],
        score_thr: float | None = None,
        num_examples: int = 6,
    ) -> None:
        self.truth, self.results, self.colours, self.num_examples = truth, results, colours, num_examples
        self.masks, self.boxes = (CocoAccuracy(truth, results, kind) for kind in ('segm', 'bbox'))
        self.thresholds = ScoreThresholds(truth, results)
        best = self.thresholds.best()
        self.score_thr = score_thr if score_thr is not None else 0.0 if np.isnan(best) else best
        self.matched = {result.image_id: MatchedImage(truth, result, self.score_thr) for result in results}
        self._choose()

    def _choose(self) -> None:
        """Choose the images to show."""
        quality = {i: image.quality for i, image in self.matched.items()}
        ranked = sorted((i for i in quality if not np.isnan(quality[i])), key=quality.get)
        number = min(self.num_examples, -(-len(ranked) // 2))
        self.worst, self.best = ranked[:number], ranked[len(ranked) - min(number, len(ranked) - number) :][::-1]
        wrong = [
            (image.result.scores[detection], i, k)
            for i, image in self.matched.items()
            for k, (detection, outcome) in enumerate(zip(image.detections, image.outcomes))
            if outcome in _WRONG
        ]
        confident = {}
        for _, i, k in sorted(wrong, key=lambda item: -item[0]):
            confident.setdefault(i, k)
        self.confident = dict(list(confident.items())[: self.num_examples])

    @property
    def image_ids(self) -> list:
        """Ids of the images that are shown."""
        return list(dict.fromkeys([*self.confident, *self.worst, *self.best]))

    def render(
        self,
        title: str,
        facts: dict[str, str],
        attention: dict | None = None,
        no_attention: str = '',
        scalars: Sequence[dict] = (),
        no_scalars: str = '',
        training: DataStatistics | None = None,
    ) -> str:
        """Write the page.

        Args:
            title: Its heading.
            facts: How it was made: name and value.
            attention: Picture, BGR, of each of :attr:`image_ids`, or None.
            no_attention: Why there are none.
            scalars: Result of :func:`mmdet_sag.analysis.read_scalars`.
            no_scalars: Why there are none.
            training: The data that the model learnt from.

        Returns:
            The HTML.
        """
        environment = Environment(
            loader=PackageLoader('mmdet_sag.analysis', '.'),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        environment.filters.update(figure=_figure, percent=_percent)
        classes = self.truth.classes
        images = {i: self._image(i, (attention or {}).get(i)) for i in self.image_ids}
        data = DataStatistics(self.truth)
        data_sets = {'Data of this report': data, **({'Training data': training} if training else {})}
        curves = charts.training_chart(scalars) if scalars else None
        return environment.get_template('report.html.jinja').render(
            title=title,
            facts=facts,
            summary=self._summary(),
            num_images=len(self.results),
            num_in_file=data.num_images,
            sizes=SIZES[1:],
            accuracy=self._accuracy_rows(),
            precision_recall=Markup(charts.precision_recall_chart(self.masks, classes)),
            score_thr=self.score_thr,
            threshold_chart=Markup(charts.threshold_chart(self.thresholds, classes, self.score_thr)),
            threshold_rows=self._threshold_rows(),
            threshold_json=Markup(self._threshold_json()),
            outcomes=self._outcome_rows(),
            outcome_names=[outcome.value for outcome in _WRONG],
            confusion=confusion_matrix(self.matched.values(), len(classes)).tolist(),
            classes=classes,
            colours=self.colours,
            mask_scores=self._mask_scores(),
            images=images,
            confident=[dict(images[i], note=self._describe(i, k), id=i) for i, k in self.confident.items()],
            worst=[dict(images[i], note='', id=i) for i in self.worst],
            best=[dict(images[i], note='', id=i) for i in self.best],
            marked={i: self._prediction(i, k) for i, k in self.confident.items()},
            no_attention=no_attention,
            training_chart=Markup(curves) if curves else None,
            no_scalars=no_scalars or 'The log of the training holds no losses.',
            data_sets=[
                dict(name=name, data=part, chart=Markup(charts.data_chart(part))) for name, part in data_sets.items()
            ],
            remarks=data.remarks(training),
        )

    def _summary(self) -> dict:
        images = self.matched.values()
        outcomes = Counter(outcome for image in images for outcome in image.outcomes)
        num_wrong = sum(outcomes[outcome] for outcome in _WRONG)
        num_objects = int(self.thresholds.objects.sum())
        found = outcomes[Outcome.RIGHT]
        aps = {name: self.masks.ap(label=i) for i, name in enumerate(self.truth.classes)}
        aps = {name: value for name, value in aps.items() if not np.isnan(value)}
        by_size = {size: self.masks.ap(size=size) for size in SIZES[1:]}
        by_size = {size: value for size, value in by_size.items() if not np.isnan(value)}
        return dict(
            ap=self.masks.ap(),
            ap50=self.masks.ap(0.5),
            box_ap=self.boxes.ap(),
            best_thr=self.thresholds.best(),
            num_objects=num_objects,
            num_found=found,
            num_detections=found + num_wrong,
            num_wrong=num_wrong,
            commonest=max(_WRONG, key=outcomes.__getitem__).value if num_wrong else '',
            num_commonest=max((outcomes[outcome] for outcome in _WRONG), default=0),
            worst_class=min(aps.items(), key=lambda item: item[1]) if len(aps) > 1 else None,
            best_class=max(aps.items(), key=lambda item: item[1]) if len(aps) > 1 else None,
            worst_size=min(by_size.items(), key=lambda item: item[1]) if len(by_size) > 1 else None,
        )

    def _accuracy_rows(self) -> list[dict]:
        rows = []
        for label, name in [(-1, 'all classes'), *enumerate(self.truth.classes)]:
            masks = self.masks
            objects = self.thresholds.objects.sum() if label < 0 else self.thresholds.objects[label]
            values = [
                masks.ap(label=label),
                masks.ap(0.5, label=label),
                masks.ap(0.75, label=label),
                *(masks.ap(size=size, label=label) for size in SIZES[1:]),
                masks.recall(label=label),
                self.boxes.ap(label=label),
                self.boxes.ap(0.5, label=label),
            ]
            rows.append(dict(label=label, name=name, objects=int(objects), values=values))
        return rows

    def _threshold_rows(self) -> list[dict]:
        rows = []
        for label, name in [(-1, 'all classes'), *enumerate(self.truth.classes)]:
            best = self.thresholds.best(label)
            place = 0 if np.isnan(best) else int(round(best * 100))
            rows.append(
                dict(
                    label=label,
                    name=name,
                    best=best,
                    precision=self.thresholds.precision(label)[place],
                    recall=self.thresholds.recall(label)[place],
                    f1=self.thresholds.f1(label)[place],
                )
            )
        return rows

    def _threshold_json(self) -> str:
        """Counts at each threshold, for the page's slider."""
        thresholds = self.thresholds
        rows = [
            dict(right=right.tolist(), wrong=wrong.tolist(), objects=int(objects))
            for right, wrong, objects in [
                (thresholds.right.sum(axis=0), thresholds.wrong.sum(axis=0), thresholds.objects.sum()),
                *zip(thresholds.right, thresholds.wrong, thresholds.objects),
            ]
        ]
        return json.dumps(dict(thresholds=THRESHOLDS.round(2).tolist(), rows=rows))

    def _outcome_rows(self) -> list[dict]:
        counts = Counter()
        missed = Counter()
        for image in self.matched.values():
            counts.update(zip(image.result.labels[image.detections].tolist(), image.outcomes))
            missed.update(image.gt_labels[image.missed].tolist())
        rows = [
            dict(
                label=label,
                name=name,
                right=counts[label, Outcome.RIGHT],
                wrong=[counts[label, outcome] for outcome in _WRONG],
                missed=missed[label],
            )
            for label, name in enumerate(self.truth.classes)
        ]
        total = dict(
            label=-1,
            name='all classes',
            right=sum(row['right'] for row in rows),
            wrong=[sum(row['wrong'][i] for row in rows) for i in range(len(_WRONG))],
            missed=sum(row['missed'] for row in rows),
        )
        return [total, *rows]

    def _mask_scores(self) -> dict | None:
        """What predicted mask IoUs are worth; None where the model predicts none, or nothing was found."""
        if not any(result.mask_scores is not None and len(result.scores) for result in self.results):
            return None
        images = [image for image in self.matched.values() if image.result.mask_scores is not None]
        scores = np.concatenate([image.result.scores for image in images])
        mask_scores = np.concatenate([image.result.mask_scores for image in images])
        true = np.concatenate([image.best_ious for image in images])
        # Whether an object is there at all is for the class score to say.
        near = true >= 0.1
        scores, mask_scores, true = scores[near], mask_scores[near], true[near]
        predicted = np.clip(mask_scores / np.maximum(scores, 1e-9), 0, 1)
        return dict(
            chart=Markup(charts.mask_score_chart(predicted, true)),
            class_score=_rank_correlation(scores, true),
            mask_score=_rank_correlation(mask_scores, true),
            predicted=_rank_correlation(predicted, true),
        )

    def _image(self, image_id: int, attention: np.ndarray | None) -> dict:
        image, matched = self.truth.image(image_id), self.matched[image_id]
        size = (image['height'], image['width'])
        path = self.truth.path(image_id)
        pixels = mmcv.imread(str(path)) if path.is_file() else None
        readable = pixels is not None
        if not readable:
            pixels = np.full((*size, 3), 128, np.uint8)
        counts = Counter(outcome.value for outcome in matched.outcomes)
        parts = [f'{counts[outcome.value]} {outcome.value}' for outcome in Outcome if counts[outcome.value]]
        unfound = len(matched.missed)
        shown = display_size(*size)
        return dict(
            key=f'image-{image_id}',
            name=image['file_name'] if readable else f'{image["file_name"]} cannot be read',
            size=f'{size[1]} × {size[0]}',
            width=shown[0],
            height=shown[1],
            wide=size[1] > 2 * size[0],
            quality=matched.quality,
            counts=', '.join([*(parts or ['no detection']), *([f'{unfound} missed'] if unfound else [])]),
            data=encode_image(pixels),
            truth=self._truth_figure(image_id),
            prediction=self._prediction(image_id),
            attention=None if attention is None else encode_image(attention),
        )

    def _truth_figure(self, image_id: int) -> Markup:
        image, matched = self.truth.image(image_id), self.matched[image_id]
        masks, crowds = self.truth.masks(image_id), self.truth.crowds(image_id)
        outlines = []
        for i, label in enumerate(matched.gt_labels):
            name = self.truth.classes[label]
            missed, crowd = i in matched.missed, crowds[i]
            note = f'{name}, a crowd region' if crowd else f'{name}, missed' if missed else name
            outlines.append(Outline(masks[i], self.colours[label], note, note, missed))
        size = (image['height'], image['width'])
        return image_figure(f'image-{image_id}', size, outlines, f'ground truth of {image["file_name"]}')

    def _prediction(self, image_id: int, strong: int = -1) -> Markup:
        image, matched = self.truth.image(image_id), self.matched[image_id]
        outlines = []
        # The most important last: it lies on top.
        for k in reversed(range(len(matched.detections))):
            detection = matched.detections[k]
            label, score = matched.result.labels[detection], matched.result.scores[detection]
            wrong = matched.outcomes[k] in _WRONG
            name = f'{self.truth.classes[label]} {score:.2f}'
            mask = matched.result.masks[detection]
            note = self._describe(image_id, k)
            # It counts as a detection, so it is to be seen.
            if not mask_utils.area(mask):
                mask = _box_mask(matched.result.bboxes[detection], mask['size'])
                note = f'{note}; its mask is empty, this is its box'
            outlines.append(Outline(mask, self.colours[label], name, note, wrong, k == strong))
        outlines.sort(key=lambda outline: outline.strong)
        size = (image['height'], image['width'])
        return image_figure(f'image-{image_id}', size, outlines, f'prediction for {image["file_name"]}')

    def _describe(self, image_id: int, k: int) -> str:
        """Say what became of a detection."""
        matched = self.matched[image_id]
        detection, outcome, iou = matched.detections[k], matched.outcomes[k], matched.ious[k]
        classes = self.truth.classes
        said = f'{classes[matched.result.labels[detection]]}, score {matched.result.scores[detection]:.2f}'
        if matched.result.mask_scores is not None:
            said += f', mask score {matched.result.mask_scores[detection]:.2f}'
        if outcome is Outcome.WRONG_CLASS:
            return f'{said}: wrong class, it is {classes[matched.gt_labels[matched.partners[k]]]} (IoU {iou:.2f})'
        if outcome is Outcome.NOTHING_THERE:
            return f'{said}: nothing of the kind is annotated there'
        if outcome is Outcome.IN_CROWD:
            return f'{said}: in a crowd region'
        return f'{said}: {outcome.value} (IoU {iou:.2f})'


def class_colours(cfg_palette, num_classes: int) -> list[str]:
    """CSS colours of the classes.

    Args:
        cfg_palette: Palette as MMDetection takes it, or None.
        num_classes: Number of classes.
    """
    if isinstance(cfg_palette, (list, tuple)) and len(cfg_palette) >= num_classes:
        return ['#{:02x}{:02x}{:02x}'.format(*(int(c) for c in colour)) for colour in cfg_palette[:num_classes]]
    # The golden angle: neighbours differ, and no number of classes repeats a hue.
    return [f'hsl({i * 137.508 % 360:.0f} 85% {(45, 60, 35)[i % 3]}%)' for i in range(num_classes)]


def _box_mask(box: np.ndarray, size: Sequence[int]) -> dict:
    """A mask that fills the pixels which a box, xyxy, touches, of an image of a height and width."""
    height, width = size
    left, top = np.floor(box[:2]).astype(int).clip(0, (width - 1, height - 1))
    right, bottom = np.ceil(box[2:]).astype(int).clip((left + 1, top + 1), (width, height))
    bitmap = np.zeros((height, width), np.uint8, order='F')
    bitmap[top:bottom, left:right] = 1
    return mask_utils.encode(bitmap)


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation; NaN where one of both is constant."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float('nan')
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of values, equal ones with their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _figure(value: float, digits: int = 3) -> str:
    return '–' if value is None or np.isnan(value) else f'{value:.{digits}f}'


def _percent(part: int, whole: int) -> str:
    return f'{part / whole:.0%}' if whole else '–'
