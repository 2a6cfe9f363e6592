import json
from collections import Counter
from collections.abc import Sequence

import mmcv
import numpy as np
import pycocotools.mask as mask_utils
from markupsafe import Markup
from scipy.stats import rankdata

from . import charts
from .coco_accuracy import SIZES, THRESHOLDS, CocoAccuracy, ScoreThresholds
from .ground_truth import DataStatistics, GroundTruth
from .image_figure import Outline, display_size, encode_image, image_figure
from .image_results import ImageResult, MatchedImage, Outcome, confusion_matrix
from .page_template import render_page

_WRONG = (Outcome.WRONG_CLASS, Outcome.INACCURATE, Outcome.DUPLICATE, Outcome.NOTHING_THERE)


class ReportPage:
    """A page on a model's accuracy, its errors, and the data, as one HTML file.

    Where not all annotated objects have a mask, it compares boxes.

    ``colours`` are CSS colours of the classes, ``score_thr`` is the lowest score of the detections in errors and
    pictures, by default the one with the best F1, and ``num_examples`` the number of pictures of each kind.
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
        kinds = dict(mask='segm', boundary='boundary') if truth.iou_type == 'segm' else {}
        # By what is compared; the first is what the page is about.
        self.accuracies = {name: CocoAccuracy(truth, results, kind) for name, kind in dict(kinds, box='bbox').items()}
        self.compared, self.accuracy = next(iter(self.accuracies.items()))
        self.thresholds = ScoreThresholds(truth, results)
        best = self.thresholds.best()
        self.score_thr = score_thr if score_thr is not None else 0.0 if np.isnan(best) else best
        self.matched = {result.image_id: MatchedImage(truth, result, self.score_thr) for result in results}
        self._choose_images()

    def _choose_images(self) -> None:
        quality = {i: image.quality for i, image in self.matched.items()}
        ranked = sorted((i for i in quality if not np.isnan(quality[i])), key=quality.__getitem__)
        number = min(self.num_examples, -(-len(ranked) // 2))
        self.worst, self.best = ranked[:number], ranked[number:][::-1][: self.num_examples]
        wrong = [
            (image.result.scores[detection], i, k)
            for i, image in self.matched.items()
            for k, (detection, outcome) in enumerate(zip(image.detections, image.outcomes))
            if outcome in _WRONG
        ]
        confident: dict[int, int] = {}
        for _, i, k in sorted(wrong, key=lambda item: -item[0]):
            confident.setdefault(i, k)
        self.confident = dict(list(confident.items())[: self.num_examples])

    @property
    def image_ids(self) -> list:
        """Ids of the images on the page."""
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
        """Return the page as HTML.

        Args:
            title: Its heading.
            facts: Names and values of the last section.
            attention: Attention picture, BGR, of each of :attr:`image_ids`; None for the reason ``no_attention``.
            no_attention: See above.
            scalars: Result of :func:`mmdet_sag.analysis.read_scalars`; empty for the reason ``no_scalars``.
            no_scalars: See above.
            training: The data that the model was trained on.
        """
        classes = self.truth.classes
        images = {i: self._image(i, (attention or {}).get(i)) for i in self.image_ids}
        data = DataStatistics(self.truth)
        data_sets = {'Data of this report': data, **({'Training data': training} if training else {})}
        return render_page(
            'report.html.jinja',
            title=title,
            facts=facts,
            summary=self._summary(),
            num_images=len(self.results),
            num_in_file=data.num_images,
            compared=self.compared,
            without_mask=(self.truth.num_without_mask, self.truth.num_objects),
            sizes=SIZES[1:],
            accuracy=self._accuracy_rows(),
            precision_recall=charts.precision_recall_chart(self.accuracy, classes),
            score_thr=self.score_thr,
            threshold_chart=charts.threshold_chart(self.thresholds, classes, self.score_thr),
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
            worst=[dict(images[i], note='') for i in self.worst],
            best=[dict(images[i], note='') for i in self.best],
            marked={i: self._prediction(i, k) for i, k in self.confident.items()},
            no_attention=no_attention,
            training_chart=charts.training_chart(scalars),
            no_scalars=no_scalars,
            data_sets=[dict(name=name, data=part, chart=charts.data_chart(part)) for name, part in data_sets.items()],
            remarks=data.remarks(training),
        )

    def _summary(self) -> dict:
        outcomes = Counter(outcome for image in self.matched.values() for outcome in image.outcomes)
        num_wrong = sum(outcomes[outcome] for outcome in _WRONG)
        found = outcomes[Outcome.RIGHT]
        commonest = max(_WRONG, key=outcomes.__getitem__)
        aps = _known({name: self.accuracy.ap(label=i) for i, name in enumerate(self.truth.classes)})
        by_size = _known({size: self.accuracy.ap(size=size) for size in SIZES[1:]})
        return dict(
            aps={name: accuracy.ap() for name, accuracy in self.accuracies.items()},
            ap50=self.accuracy.ap(0.5),
            best_thr=self.thresholds.best(),
            num_objects=int(self.thresholds.objects.sum()),
            num_found=found,
            num_detections=found + num_wrong,
            num_wrong=num_wrong,
            commonest=commonest.value if num_wrong else '',
            num_commonest=outcomes[commonest],
            worst_class=aps[0] if len(aps) > 1 else None,
            best_class=aps[-1] if len(aps) > 1 else None,
            worst_size=by_size[0] if len(by_size) > 1 else None,
        )

    def _rows(self) -> list[tuple[int, str]]:
        """Label and name of each row of the tables."""
        return [(-1, 'all classes'), *enumerate(self.truth.classes)]

    def _accuracy_rows(self) -> list[dict]:
        rows = []
        for label, name in self._rows():
            values = [
                *(self.accuracy.ap(iou_thr, label=label) for iou_thr in (0, 0.5, 0.75)),
                *(self.accuracy.ap(size=size, label=label) for size in SIZES[1:]),
                self.accuracy.recall(label=label),
            ]
            if self.compared == 'mask':
                boundaries, boxes = self.accuracies['boundary'], self.accuracies['box']
                values += [boundaries.ap(label=label), *(boxes.ap(iou_thr, label=label) for iou_thr in (0, 0.5))]
            rows.append(dict(label=label, name=name, objects=self.thresholds.counts(label)[2], values=values))
        return rows

    def _threshold_rows(self) -> list[dict]:
        rows, thresholds = [], self.thresholds
        for label, name in self._rows():
            best = thresholds.best(label)
            place = 0 if np.isnan(best) else int(round(best * 100))
            measures = dict(precision=thresholds.precision, recall=thresholds.recall, f1=thresholds.f1)
            values = {measure: of_label(label)[place] for measure, of_label in measures.items()}
            rows.append(dict(label=label, name=name, best=best, **values))
        return rows

    def _threshold_json(self) -> str:
        """Counts at each threshold, for the page's slider."""
        counts = (self.thresholds.counts(label) for label, _ in self._rows())
        rows = [dict(right=right.tolist(), wrong=wrong.tolist(), objects=objects) for right, wrong, objects in counts]
        return json.dumps(dict(thresholds=THRESHOLDS.round(2).tolist(), rows=rows))

    def _outcome_rows(self) -> list[dict]:
        counts: Counter = Counter()
        for image in self.matched.values():
            found = zip(image.result.labels[image.detections].tolist(), image.outcomes)
            missed = ((label, 'missed') for label in image.gt_labels[image.missed].tolist())
            for label, outcome in (*found, *missed):
                counts.update([(label, outcome), (-1, outcome)])
        return [
            dict(
                label=label,
                name=name,
                right=counts[label, Outcome.RIGHT],
                wrong=[counts[label, outcome] for outcome in _WRONG],
                missed=counts[label, 'missed'],
            )
            for label, name in self._rows()
        ]

    def _mask_scores(self) -> dict | None:
        """Compare predicted with true mask IoUs; None if there are none of either, or nothing was found."""
        images = [image for image in self.matched.values() if image.result.mask_scores is not None]
        if self.truth.num_without_mask or not any(len(image.result.scores) for image in images):
            return None
        scores = np.concatenate([image.result.scores for image in images])
        mask_scores = np.concatenate([image.result.mask_scores for image in images])
        true = np.concatenate([image.best_ious for image in images])
        # The class score, not the mask score, says whether there is an object.
        near = true >= 0.1
        scores, mask_scores, true = scores[near], mask_scores[near], true[near]
        predicted = np.clip(mask_scores / np.maximum(scores, 1e-9), 0, 1)
        return dict(
            chart=charts.mask_score_chart(predicted, true),
            class_score=_rank_correlation(scores, true),
            mask_score=_rank_correlation(mask_scores, true),
            predicted=_rank_correlation(predicted, true),
        )

    def _image(self, image_id: int, attention: np.ndarray | None) -> dict:
        image, matched, path = self.truth.image(image_id), self.matched[image_id], self.truth.path(image_id)
        height, width = image['height'], image['width']
        pixels = mmcv.imread(str(path)) if path.is_file() else None
        outcomes = Counter(outcome.value for outcome in Outcome for found in matched.outcomes if found is outcome)
        counts = [f'{number} {name}' for name, number in outcomes.items()] or ['no detection']
        shown = display_size(height, width)
        return dict(
            key=f'image-{image_id}',
            name=image['file_name'] + (' cannot be read' if pixels is None else ''),
            size=f'{width} × {height}',
            width=shown[0],
            height=shown[1],
            quality=matched.quality,
            counts=', '.join(counts + ([f'{len(matched.missed)} missed'] if matched.missed else [])),
            data=encode_image(np.full((height, width, 3), 128, np.uint8) if pixels is None else pixels),
            truth=self._ground_truth(image_id),
            prediction=self._prediction(image_id),
            attention=None if attention is None else encode_image(attention),
        )

    def _ground_truth(self, image_id: int) -> Markup:
        matched, outlines = self.matched[image_id], []
        annotations = zip(matched.gt_labels, self.truth.masks(image_id), self.truth.crowds(image_id))
        for i, (label, mask, crowd) in enumerate(annotations):
            missed = i in matched.missed
            note = self.truth.classes[label] + (', a crowd region' if crowd else ', missed' if missed else '')
            outlines.append(Outline(mask, self.colours[label], note, note, missed))
        return self._outlined(image_id, outlines, 'ground truth of')

    def _prediction(self, image_id: int, strong: int = -1) -> Markup:
        matched, outlines = self.matched[image_id], []
        # The most important last: it lies on top.
        for k in reversed(range(len(matched.detections))):
            detection = matched.detections[k]
            label, score = matched.result.labels[detection], matched.result.scores[detection]
            mask, note = matched.result.masks[detection], self._describe(image_id, k)
            # It counts as a detection, so it must be visible.
            if not mask_utils.area(mask):
                mask = _box_mask(matched.result.bboxes[detection], mask['size'])
                note = f'{note}; its mask is empty, this is its box'
            name, wrong = f'{self.truth.classes[label]} {score:.2f}', matched.outcomes[k] in _WRONG
            outlines.append(Outline(mask, self.colours[label], name, note, wrong, k == strong))
        outlines.sort(key=lambda outline: outline.strong)
        return self._outlined(image_id, outlines, 'prediction for')

    def _outlined(self, image_id: int, outlines: list[Outline], what: str) -> Markup:
        image = self.truth.image(image_id)
        size = (image['height'], image['width'])
        return image_figure(f'image-{image_id}', size, outlines, f'{what} {image["file_name"]}')

    def _describe(self, image_id: int, k: int) -> str:
        """Describe a detection and its outcome."""
        matched = self.matched[image_id]
        detection, outcome, iou = matched.detections[k], matched.outcomes[k], matched.ious[k]
        classes = self.truth.classes
        said = f'{classes[matched.result.labels[detection]]}, score {matched.result.scores[detection]:.2f}'
        if matched.result.mask_scores is not None:
            said += f', mask score {matched.result.mask_scores[detection]:.2f}'
        if outcome is Outcome.WRONG_CLASS:
            return f'{said}: wrong class, it is {classes[matched.gt_labels[matched.partners[k]]]} (IoU {iou:.2f})'
        if outcome is Outcome.NOTHING_THERE:
            return f'{said}: no such object is annotated there'
        if outcome is Outcome.IN_CROWD:
            return f'{said}: in a crowd region'
        return f'{said}: {outcome.value} (IoU {iou:.2f})'


def class_colours(cfg_palette, num_classes: int) -> list[str]:
    """Return CSS colours of the classes, from the palette of a config if it has one for each."""
    if isinstance(cfg_palette, (list, tuple)) and len(cfg_palette) >= num_classes:
        return ['#{:02x}{:02x}{:02x}'.format(*(int(c) for c in colour)) for colour in cfg_palette[:num_classes]]
    # The golden angle: neighbours differ, and no number of classes repeats a hue.
    return [f'hsl({i * 137.508 % 360:.0f} 85% {(45, 60, 35)[i % 3]}%)' for i in range(num_classes)]


def _box_mask(box: np.ndarray, size: Sequence[int]) -> dict:
    """Return a mask of the pixels that a box, xyxy, touches, in an image of size (height, width)."""
    height, width = size
    left, top = np.floor(box[:2]).astype(int).clip(0, (width - 1, height - 1))
    right, bottom = np.ceil(box[2:]).astype(int).clip((left + 1, top + 1), (width, height))
    bitmap = np.zeros((height, width), np.uint8, order='F')
    bitmap[top:bottom, left:right] = 1
    return mask_utils.encode(bitmap)


def _known(values: dict[str, float]) -> list[tuple[str, float]]:
    """Names and values without NaN, the lowest value first."""
    return sorted(((name, value) for name, value in values.items() if not np.isnan(value)), key=lambda item: item[1])


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation; NaN if one of both is constant."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float('nan')
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
