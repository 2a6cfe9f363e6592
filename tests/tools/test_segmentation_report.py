"""The report on a segmentor through its command."""

import json
import re

import numpy as np
import pytest
from support.tiny_export import run_here

pytest.importorskip('mmseg', reason='needs MMSegmentation: pip install -r requirements/segmentation.txt')
from support.tiny_vessels import write_tiny_segmentor

from mmdet_sag.analysis import SegmentationPage, SegmentedImage
from mmdet_sag.analysis.coco_accuracy import THRESHOLDS

REPORT = 'analysis_tools/report.py'
LOG = [dict(step=5, loss=0.5), dict(step=5, **{'vessel/F1': 0.25, 'vessel/AUC': 0.5}), dict(step=10, loss=0.4)]


def table(html: str, name: str) -> list[list[str]]:
    """Cells of a table of the page, without its headings."""
    rows = re.search(rf'<table class="sortable" id="{name}">(.*?)</table>', html, re.DOTALL)[1]
    return [re.findall(r'<td[^>]*>(?:<span[^>]*></span>)?(.*?)</td>', row) for row in rows.split('<tr')[2:]]


def test_a_page_has_the_evaluators_figures_the_best_threshold_and_pictures(monkeypatch, tmp_path, capsys):
    config, checkpoint = write_tiny_segmentor(tmp_path)
    log = tmp_path / 'run/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('\n'.join(map(json.dumps, LOG)))
    arguments = [config, checkpoint, '--out', tmp_path / 'page.html', '--work-dir', tmp_path / 'test']
    assert run_here(monkeypatch, REPORT, *arguments) == 0
    (scores,) = (tmp_path / 'test').glob('*/*.json')
    figures = {name: value for name, value in json.loads(scores.read_text()).items() if name.startswith('vessel')}
    html = (tmp_path / 'page.html').read_text()
    rows = table(html, 'image-table')
    assert [row[0] for row in rows] == ['all images', 'validation_0.png', 'validation_1.png']
    assert rows[0][1:] == [f'{value:.3f}' for value in figures.values()]
    # The sensitivity of all images is between those of the single ones.
    low, high = sorted(float(row[1]) for row in rows[1:])
    assert low < figures['vessel/sensitivity'] < high
    background, vessel = table(html, 'class-table')
    assert [background[0], vessel[0]] == ['background', 'vessel']
    assert int(background[1]) + int(vessel[1]) == 2 * 60 * 68
    assert vessel[4] == f'{figures["vessel/sensitivity"]:.3f}' and vessel[5] == f'{figures["vessel/F1"]:.3f}'
    best, f1 = re.search(r'F1 is highest, (\S+), at (\S+);', html).groups()[::-1]
    assert f'best threshold {best}' in capsys.readouterr().out
    assert float(f1) >= figures['vessel/F1'] - 1e-3
    assert f'the dotted line, which this model uses, it is {figures["vessel/F1"]:.3f}' in html
    assert html.count('<img class="picture" alt="prediction of') == 2
    assert all(f'rgb({colour})"></span>{name}' in html for name, colour in (('right', '0, 158, 115'),))
    assert 'Figures on the validation images' in html and str(config) in html

    # The threshold that the page proposes reaches the F1 that it says.
    arguments += ['--cfg-options', f'model.decode_head.threshold={best}']
    assert run_here(monkeypatch, REPORT, *arguments) == 0
    assert table((tmp_path / 'page.html').read_text(), 'class-table')[1][5] == f1

    for option, message in (
        (['--score-thr', '0.5'], 'set --cfg-options model.decode_head.threshold in its place'),
        ([], 'predictions of a segmentor hold no labels, give its checkpoint'),
    ):
        model = checkpoint if option else 'results.pkl'
        assert run_here(monkeypatch, REPORT, config, model, '--out', tmp_path / 'none.html', *option) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / 'none.html').exists()


def test_a_model_of_several_classes_has_scores_by_class_and_no_threshold(monkeypatch, tmp_path):
    data_set = dict(type='BaseSegDataset', img_suffix='.png', seg_map_suffix='_1stHO.png', reduce_zero_label=False)
    data_set.update(metainfo=dict(classes=('ground', 'line', '<other>')))
    options = {f'test_dataloader.dataset.{key}': value for key, value in data_set.items()}
    head = dict(num_classes=3, out_channels=None, threshold=None)
    options.update({f'model.decode_head.{key}': value for key, value in head.items()})
    options['test_evaluator'] = dict(_delete_=True, type='IoUMetric', iou_metrics=['mIoU'])
    config, checkpoint = write_tiny_segmentor(tmp_path, **options)
    arguments = [config, checkpoint, '--out', tmp_path / 'page.html', '--work-dir', tmp_path / 'test']
    assert run_here(monkeypatch, REPORT, *arguments) == 0
    (scores,) = (tmp_path / 'test').glob('*/*.json')
    html = (tmp_path / 'page.html').read_text()
    rows = table(html, 'class-table')
    assert [row[0] for row in rows] == ['ground', 'line', '&lt;other&gt;']
    # Nothing is annotated as the third class.
    assert rows[2][1] == '0' and rows[2][4] == '–'
    mean = np.mean([float(row[6]) for row in rows])
    assert 100 * mean == pytest.approx(json.loads(scores.read_text())['mIoU'], abs=0.1)
    assert 'id="threshold"' not in html and 'best threshold' not in html
    assert html.count('<img class="picture" alt="wrong pixels of') == 2


def test_the_best_threshold_is_where_f1_is_highest():
    # 10 vessel pixels above 0.7, and 5 others above 0.3: all and nothing else is found between.
    above = np.stack([np.where(THRESHOLDS < 0.3, 5, 0), np.where(THRESHOLDS < 0.7, 10, 0)])
    image = SegmentedImage('a.png', {}, np.array([[85, 5], [0, 10]]), above, b'')
    page = SegmentationPage([image], {}, ('background', 'vessel'), [(0, 0, 0)] * 2, 0.2, num_examples=0)
    assert page.best_threshold == pytest.approx(0.3)
    assert page.curves['F1'][20] == pytest.approx(0.8) == pytest.approx(image.f1)
    assert page.curves['precision'][20] == pytest.approx(2 / 3) and np.isnan(page.curves['precision'][80])
    empty = SegmentedImage('b.png', {}, np.array([[9, 0], [0, 0]]), np.zeros((2, 101), int), b'')
    assert np.isnan(empty.f1)
    nothing = SegmentationPage([empty], {}, ('background', 'vessel'), [(0, 0, 0)] * 2, 0.5)
    assert np.isnan(nothing.best_threshold) and nothing.worst == []
