"""The results as a table and as figures."""

from pathlib import Path

import matplotlib
import numpy as np
from benchmark_models import STAGES

matplotlib.use('Agg')
import matplotlib.pyplot as plt

GROWTH = dict(size='short side of the image', detections='detections', batch='images at a time')


def draw(results: list[dict], out_file: Path) -> None:
    """Draw the stages' medians as one bar per model."""
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.6 * len(results)), dpi=120, layout='constrained')
    left = np.zeros(len(results))
    for stage, colour in zip(STAGES, plt.get_cmap('tab20').colors):
        values = np.array([result['stages'].get(stage, dict(median=0))['median'] * 1000 for result in results])
        if stage != 'data' and values.any():
            axes.barh([label(result) for result in results], values, left=left, label=stage, color=colour)
            left += values
    axes.invert_yaxis()
    axes.set_xlabel('ms per run, median of each stage')
    axes.legend(ncols=2, fontsize=8, loc='upper left', bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(out_file)
    plt.close(figure)


def draw_growth(axis: str, points: list[dict], out_file: Path) -> None:
    """Draw time per image and memory of each model over the values of an axis."""
    figure, (time_axes, memory_axes) = plt.subplots(1, 2, figsize=(9, 3.6), dpi=120, layout='constrained')
    values = [point['value'] for point in points]
    for results in zip(*(point['models'] for point in points)):
        name = label(results[0])
        time_axes.plot(values, [1000 / result['images_per_s'] for result in results], marker='o', label=name)
        if results[0]['extra_memory_mb'] is not None:
            memory_axes.plot(values, [result['extra_memory_mb'] for result in results], marker='o')
    for axes, title in ((time_axes, 'ms per image'), (memory_axes, 'MB beyond the model')):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(GROWTH[axis])
        axes.set_xticks(values)
        axes.set_ylim(bottom=0)
    figure.legend(loc='outside lower center', ncols=2, fontsize=8, frameon=False)
    figure.savefig(out_file)
    plt.close(figure)


def label(result: dict) -> str:
    path, *options = result['model'].split('+')
    return '+'.join([Path(path).stem, *options])


def table(results: list[dict]) -> str:
    rows = [['ms', *(label(result) for result in results)]]
    stages = [stage for stage in STAGES if any(stage in result['stages'] for result in results)]
    for stage in stages:
        rows.append([stage, *(milliseconds(result['stages'].get(stage)) for result in results)])
    rows.append(['total without data', *(milliseconds(result['total']) for result in results)])
    rows.append(['share of the first', *(f'{result["share_of_first"]:.2f}' for result in results)])
    rows.append(['images/s', *(f'{result["images_per_s"]:.2f}' for result in results)])
    rows.append(['extra memory, MB', *(_number(result['extra_memory_mb']) for result in results)])
    rows.append(['parameters, M', *(f'{result["parameters"] / 1e6:.1f}' for result in results)])
    rows.append(['GFLOPs', *(_number(result.get('gflops')) for result in results)])
    rows.append(['masks found', *(_number(result.get('found')) for result in results)])
    return aligned(rows)


def overview(results: list[dict]) -> str:
    """One row for each model and number of images at a time."""
    rows = [['model', 'batch', 'ms', 'share', 'images/s', 'extra MB', 'parameters, M', 'GFLOPs']]
    for result in results:
        rows.append(
            [
                label(result),
                str(result['batch_size']),
                milliseconds(result['total']),
                f'{result["share_of_first"]:.2f}',
                f'{result["images_per_s"]:.2f}',
                _number(result['extra_memory_mb']),
                f'{result["parameters"] / 1e6:.1f}',
                _number(result.get('gflops')),
            ]
        )
    return aligned(rows)


def aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return '\n'.join(
        '  '.join(
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    )


def milliseconds(spread: dict | None) -> str:
    if spread is None:
        return '-'
    return f'{spread["median"] * 1000:.1f} ({spread["low"] * 1000:.1f}-{spread["high"] * 1000:.1f})'


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.0f}'
