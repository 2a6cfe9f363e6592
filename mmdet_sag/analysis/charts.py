"""Charts of a report, as ``<svg>`` elements, one for each of their axes."""

import contextlib
import io
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from .coco_accuracy import THRESHOLDS, CocoAccuracy, ScoreThresholds
from .ground_truth import DataStatistics

# Text stays text, since a browser has glyphs of every script; and a class may be called $1.
_STYLE = {
    'svg.fonttype': 'none',
    'text.parse_math': False,
    'font.family': 'sans-serif',
    'font.size': 9.5,
    'axes.titlesize': 10.5,
    'axes.titleweight': 'bold',
    'axes.titlelocation': 'left',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.alpha': 0.25,
    'legend.frameon': False,
}
# More lines than this cannot be told apart.
_MAX_LINES = 8
AP_NAMES = dict(bbox_mAP='box AP', segm_mAP='mask AP', boundary_mAP='boundary AP')


@contextlib.contextmanager
def _chart(num_axes: int = 2, height: float = 3.5, unit: bool = False) -> Iterator[SimpleNamespace]:
    """Make a chart, whose ``svg`` is set when the ``with`` block ends; with ``unit``, its axes range from 0 to 1.

    Each of its ``axes`` is a picture of its own: the page puts them side by side where there is room.
    """
    size = (10.6 / num_axes, height)
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The browser has the glyphs that matplotlib's font lacks.
        warnings.filterwarnings('ignore', message='Glyph .* missing')
        chart = SimpleNamespace(axes=[Figure(figsize=size, layout='constrained').subplots() for _ in range(num_axes)])
        yield chart
        chart.svg = Markup()
        for axes in chart.axes:
            if unit:
                axes.set(xlim=(0, 1), ylim=(0, 1.03))
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=8.5, loc='center left', bbox_to_anchor=(1, 0.5))
            buffer = io.StringIO()
            axes.figure.savefig(buffer, format='svg', metadata=dict(Date=None), transparent=True)
            svg = buffer.getvalue().partition('?>')[2].partition('>')[2].strip()
            # All charts have the same names of groups, which nothing refers to.
            chart.svg += Markup(re.sub('<g id="[^"]*"', '<g', svg))


def precision_recall_chart(accuracy: CocoAccuracy, classes: Sequence[str]) -> Markup:
    """Draw precision against recall, at several IoU thresholds and by class."""
    recalls = np.linspace(0, 1, 101)
    with _chart(unit=True) as chart:
        left, right = chart.axes
        for iou_thr in (0.5, 0.75, 0.9):
            left.plot(recalls, accuracy.precision_curve(iou_thr), label=f'IoU {iou_thr:g}', linewidth=1.8)
        left.set(title='All classes, by how exact a match must be', xlabel='recall', ylabel='precision')
        aps = np.array([accuracy.ap(0.5, label=label) for label in range(len(classes))])
        for label in _extremes(aps):
            name = f'{_short(classes[label])} {aps[label]:.2f}'
            right.plot(recalls, accuracy.precision_curve(0.5, label), label=name)
        right.set(title=_title('By class, at IoU 0.5', aps), xlabel='recall', ylabel='precision')
    return chart.svg


def threshold_chart(thresholds: ScoreThresholds, classes: Sequence[str], chosen: float) -> Markup:
    """Draw precision, recall and F1 against the score threshold, and F1 by class."""
    with _chart(unit=True) as chart:
        left, right = chart.axes
        _plot_thresholds(left, thresholds.precision(), thresholds.recall(), thresholds.f1())
        left.set(title='All classes', xlabel='score threshold')
        f1 = [np.nan_to_num(thresholds.f1(label)) for label in range(len(classes))]
        best = np.where(thresholds.objects > 0, [values.max() for values in f1], np.nan)
        for label in _extremes(best):
            right.plot(THRESHOLDS, f1[label], label=_short(classes[label]))
        right.set(title=_title('F1 by class', best), xlabel='score threshold')
        for axes in chart.axes:
            axes.axvline(chosen, color='black', linewidth=0.8, linestyle=':')
    return chart.svg


def pixel_threshold_chart(curves: dict[str, np.ndarray], chosen: float) -> Markup:
    """Draw precision, recall and F1 of pixels, each (101, ), against the threshold, and precision against recall."""
    with _chart(unit=True) as chart:
        left, right = chart.axes
        _plot_thresholds(left, curves['precision'], curves['recall'], curves['F1'])
        left.axvline(chosen, color='black', linewidth=0.8, linestyle=':')
        left.set(title='By threshold', xlabel='threshold of the probability')
        right.plot(curves['recall'], curves['precision'], linewidth=1.8)
        right.set(title='Precision against recall', xlabel='recall', ylabel='precision')
    return chart.svg


def mask_score_chart(predicted: np.ndarray, true: np.ndarray) -> Markup:
    """Draw predicted mask IoU against true mask IoU of n detections, as points and as a curve of means."""
    with _chart(height=3.7, unit=True) as chart:
        left, right = chart.axes
        # A fixed sample, of a size that can be seen.
        some = np.random.default_rng(0).permutation(len(predicted))[:1500]
        left.plot([0, 1], [0, 1], color='black', linewidth=0.8, linestyle=':')
        left.plot(predicted[some], true[some], '.', markersize=4, alpha=0.4, markeredgewidth=0)
        left.set(title='Each dot is a detection', xlabel='predicted mask IoU', ylabel='true mask IoU')
        edges = np.linspace(0, 1, 11)
        bins = np.clip(np.digitize(predicted, edges) - 1, 0, 9)
        groups = [(i, true[bins == i]) for i in range(10) if (bins == i).sum() >= 5]
        right.plot([0, 1], [0, 1], color='black', linewidth=0.8, linestyle=':', label='ideal')
        centres = [edges[i] + 0.05 for i, _ in groups]
        right.plot(centres, [values.mean() for _, values in groups], marker='o', label='mean')
        quartiles = np.array([np.percentile(values, (25, 75)) for _, values in groups]).reshape(-1, 2)
        right.fill_between(centres, *quartiles.T, alpha=0.2, label='middle half')
        right.set(title='By tenths of the predicted IoU', xlabel='predicted mask IoU', ylabel='true mask IoU')
    return chart.svg


def read_scalars(work_dir: Path) -> list[dict]:
    """Read what MMEngine logged of a training into ``vis_data/scalars.json``, in the order of the steps.

    Training steps have ``loss``, validations ``coco/...``. Of a step that an interrupted training ran twice, the later
    record counts.
    """
    records = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            # The process may have ended within a line.
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                records[record['step'], 'loss' in record] = record
    return [records[key] for key in sorted(records)]


def training_chart(
    scalars: Sequence[dict], names: dict[str, str] = AP_NAMES, title: str = 'AP on the validation images'
) -> Markup | None:
    """Draw losses and figures over the steps of :func:`read_scalars`, or return None if nothing was logged.

    ``names`` has the figures' names in their chart, by what those in the log end with; ``title`` is the chart's.
    """
    training = [record for record in scalars if 'loss' in record]
    ap_names = dict.fromkeys(
        key for record in scalars if 'loss' not in record for key in record if key.endswith(tuple(names))
    )
    if not training and not ap_names:
        return None
    with _chart() as chart:
        left, right = chart.axes
        for key in dict.fromkeys(key for record in training for key in record if key.startswith('loss')):
            steps, values = zip(*((record['step'], record[key]) for record in training if key in record))
            style = dict(color='black', linewidth=1.8) if key == 'loss' else dict(linewidth=1.1)
            left.plot(steps, values, label=key.replace('loss_', '') if key != 'loss' else 'total', **style)
        if validations := [record for record in scalars if 'val_loss' in record]:
            steps, values = zip(*((record['step'], record['val_loss']) for record in validations))
            left.plot(steps, values, color='black', linestyle=':', marker='o', markersize=4, label='total, validation')
        left.set(title='Losses', xlabel='training step', yscale='log')
        # The default formatter of logarithmic axes writes formulas.
        left.yaxis.set_major_formatter('{x:g}')
        left.yaxis.set_minor_formatter(NullFormatter())
        for key in ap_names:
            steps, values = zip(*((record['step'], record[key]) for record in scalars if key in record))
            name = next(name for end, name in names.items() if key.endswith(end))
            right.plot(steps, values, marker='o', markersize=4, label=name)
        right.set(title=title, xlabel='training step or epoch', xlim=(0, None), ylim=(0, None))
        if not ap_names:
            right.text(0.5, 0.5, 'no validation was logged', transform=right.transAxes, ha='center')
    return chart.svg


def data_chart(data: DataStatistics) -> Markup:
    """Draw objects per image, sizes of objects, and sizes of images of a data set."""
    with _chart(num_axes=3, height=2.9) as chart:
        count, side, image = chart.axes
        highest = int(data.objects_per_image.max(initial=0))
        step = max(1, -(-highest // 25))
        count.hist(data.objects_per_image, bins=np.arange(0, highest + step + 1, step) - 0.5)
        count.set(title='Objects per image', xlabel='objects', ylabel='images')
        sides = data.object_sides[data.object_sides > 0]
        if len(sides):
            low, high = max(sides.min() * 0.9, 0.5), sides.max() * 1.1
            side.hist(sides, bins=np.geomspace(low, high, 25))
            side.set_xscale('log')
            side.xaxis.set_major_formatter('{x:.0f}')
            ticks = [x for x in (2, 4, 8, 16, 32, 64, 96, 128, 256, 512, 1024, 2048) if low <= x <= high]
            side.set_xticks(ticks, labels=[str(x) for x in ticks])
            side.minorticks_off()
            for limit in (32, 96):
                if low < limit < high:
                    side.axvline(limit, color='black', linewidth=0.8, linestyle=':')
        side.set(title='Size of objects: √area', xlabel='pixels', ylabel='objects')
        sizes, numbers = np.unique(data.image_sizes, axis=0, return_counts=True)
        image.scatter(*sizes.T, s=12 + 120 * numbers / numbers.max(initial=1), alpha=0.5, linewidths=0)
        limit = data.image_sizes.max(initial=1) * 1.1
        image.set(title='Size of images', xlabel='width', ylabel='height', xlim=(0, limit), ylim=(0, limit))
    return chart.svg


def _plot_thresholds(axes: Axes, precision: np.ndarray, recall: np.ndarray, f1: np.ndarray) -> None:
    for name, values in dict(precision=precision, recall=recall).items():
        axes.plot(THRESHOLDS, values, label=name, linewidth=1.8)
    axes.plot(THRESHOLDS, f1, label='F1', linewidth=1.8, color='black')


def _extremes(values: np.ndarray) -> list[int]:
    """Return the classes to draw, the highest value first: all, or the highest and the lowest."""
    order = [int(i) for i in np.argsort(-values, kind='stable') if not np.isnan(values[i])]
    return order if len(order) <= _MAX_LINES else order[: _MAX_LINES // 2] + order[-_MAX_LINES // 2 :]


def _title(title: str, values: np.ndarray) -> str:
    half = _MAX_LINES // 2
    return title if (~np.isnan(values)).sum() <= _MAX_LINES else f'{title}: the best {half}, the worst {half}'


def _short(name: str) -> str:
    return name if len(name) <= 18 else f'{name[:17]}…'
