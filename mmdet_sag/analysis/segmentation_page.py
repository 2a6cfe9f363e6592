from collections.abc import Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np

from . import charts
from .coco_accuracy import THRESHOLDS
from .image_figure import display_size, encode_image
from .page_template import render_page
from .segmentation_results import SegmentedImage, class_scores

# Blue, green, red, of a palette that the colour-blind tell apart.
_COLOURS = dict(right=(115, 158, 0), missed=(233, 180, 86), surplus=(0, 94, 213))
# As many figures as a chart or the page's head can show.
_NUM_FIGURES = 6


class SegmentationPage:
    """A page on a segmentor's accuracy and errors, as one HTML file.

    Args:
        images: What a test gave.
        figures: The evaluator's, of all images.
        classes: Names of the classes.
        palette: Red, green and blue of each class.
        threshold: Probability above which a model of one channel takes the second of two classes; None of others.
        num_examples: Number of worst, and of best images.
    """

    def __init__(
        self,
        images: Sequence[SegmentedImage],
        figures: dict[str, float],
        classes: Sequence[str],
        palette: Sequence[Sequence[int]],
        threshold: float | None,
        num_examples: int = 6,
    ) -> None:
        self.images, self.classes, self.palette, self.figures = images, classes, palette, figures
        # The more probable of two channels.
        self.threshold, self.is_settable = (0.5, False) if threshold is None else (threshold, True)
        ranked = sorted((image for image in images if not np.isnan(image.f1)), key=lambda image: image.f1)
        number = min(num_examples, -(-len(ranked) // 2))
        self.worst, self.best = ranked[:number], ranked[number:][::-1][:num_examples]
        self.curves = self._curves() if len(classes) == 2 else None

    def _curves(self) -> dict[str, np.ndarray]:
        """Precision, recall and F1 of the second of two classes at each threshold; NaN where undefined."""
        wrong, right = sum(image.above for image in self.images)
        labelled = sum(image.confusion[1].sum() for image in self.images)
        with np.errstate(invalid='ignore'):
            return dict(
                precision=right / (right + wrong), recall=right / labelled, F1=2 * right / (right + wrong + labelled)
            )

    @property
    def best_threshold(self) -> float:
        """Threshold of the highest F1 of the second of two classes; NaN of other numbers, or if nothing was found."""
        if self.curves is None or not np.nan_to_num(self.curves['F1']).any():
            return float('nan')
        return float(THRESHOLDS[np.nanargmax(self.curves['F1'])])

    def render(self, title: str, facts: dict[str, str], scalars: Sequence[dict] = (), no_scalars: str = '') -> str:
        """Return the page as HTML; arguments are those of :meth:`ReportPage.render`."""
        confusion = sum(image.confusion for image in self.images)
        # Headings of several words wrap.
        names = {name: name.rpartition('/')[2].replace('_', ' ') for name in self.figures}
        shown = dict(list(names.items())[:_NUM_FIGURES])
        place = int(round(self.threshold * 100))
        return render_page(
            'segmentation.html.jinja',
            title=title,
            facts=facts,
            num_images=len(self.images),
            classes=self.classes,
            colours=['rgb({}, {}, {})'.format(*colour) for colour in self.palette],
            names=names,
            shown=shown,
            figures=self.figures,
            rows=[(Path(image.path).name, image.figures) for image in self.images],
            pixels=confusion.sum(axis=1).tolist(),
            scores={name: values.tolist() for name, values in class_scores(confusion).items()},
            threshold=self.threshold,
            is_settable=self.is_settable,
            best_threshold=self.best_threshold,
            f1=None if self.curves is None else [np.nanmax(self.curves['F1'], initial=0), self.curves['F1'][place]],
            threshold_chart=charts.pixel_threshold_chart(self.curves, self.threshold) if self.curves else None,
            legend={name: 'rgb({2}, {1}, {0})'.format(*bgr) for name, bgr in _COLOURS.items()},
            worst=[self._example(image) for image in self.worst],
            best=[self._example(image) for image in self.best],
            training_chart=charts.training_chart(scalars, shown, 'Figures on the validation images'),
            no_scalars=no_scalars,
        )

    def _example(self, image: SegmentedImage) -> dict:
        labels, predicted = image.maps()
        pixels = mmcv.imread(image.path)
        errors = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR) // 2
        known = labels < len(self.classes)
        if self.curves is None:
            errors[known & (labels != predicted)] = _COLOURS['surplus']
            truth, prediction = self._overlay(pixels, labels), self._overlay(pixels, predicted)
            pictures = {'ground truth': truth, 'prediction': prediction, 'wrong pixels': errors}
        else:
            there, found = labels == 1, known & (predicted == 1)
            for name, where in dict(right=there & found, missed=there & ~found, surplus=found & ~there).items():
                errors[where] = _COLOURS[name]
            pictures = {'image': pixels, 'prediction': errors}
        height, width = labels.shape
        shown = display_size(height, width)
        return dict(
            name=Path(image.path).name,
            size=f'{width} × {height}',
            f1=image.f1,
            width=shown[0],
            height=shown[1],
            pictures={name: encode_image(picture) for name, picture in pictures.items()},
        )

    def _overlay(self, pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
        # Unlabelled pixels stay as they are.
        colours = np.zeros((256, 3), np.uint8)
        colours[: len(self.palette)] = np.array(self.palette)[:, ::-1]
        known = (labels < len(self.classes))[..., None]
        return np.where(known, pixels // 2 + colours[labels] // 2, pixels)
