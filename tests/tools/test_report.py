import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from support.chromium import needs_chromium, open_page
from support.odd_images import CLASSES, IMAGES, write_odd_images
from support.reference import CONFIGS
from support.tiny_training import rectangles_config, write_rectangles
from support.tool import run_tool

from mmdet_sag.errors import InputError

TOOL = Path(__file__).parents[2] / 'tools/analysis_tools/report.py'
SECTIONS = ('accuracy', 'threshold', 'errors', 'mask-score', 'images', 'training', 'data', 'made')


def run(*arguments):
    return run_tool(TOOL, *arguments)


def run_here(monkeypatch, *arguments):
    """Run the tool inside this process."""
    monkeypatch.setattr(sys, 'argv', [str(argument) for argument in (TOOL, *arguments)])
    runpy.run_path(str(TOOL))['main']()


@pytest.fixture(scope='module')
def odd(tmp_path_factory):
    folder = tmp_path_factory.mktemp('odd')
    write_odd_images(folder)
    result = run(folder / 'config.py', folder / 'results.pkl', '--out', folder / 'report.html', '--num-images', '3')
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, (folder / 'report.html').read_text()


def test_the_page_needs_no_other_file(odd):
    _, html = odd
    addresses = re.findall(r'(?:src|href)="([^"#]{1,40})', html)
    assert addresses and all(address.startswith('data:') for address in addresses)
    assert not re.search(r'@import|url\((?!#|data:)', html)


def test_all_images_of_a_model_of_mmdetection_are_shown_whatever_their_shape(odd):
    _, html = odd
    for name in IMAGES:
        # An image without objects and detections is neither good nor bad.
        assert (f'prediction for {name}' in html) == (name != 'empty.png')
    assert 'make this report from the checkpoint' in html
    assert all(f'id="{section}"' in html for section in SECTIONS)


def test_class_names_are_text_not_markup(odd):
    _, html = odd
    assert '<b>insulator' not in html
    assert '&lt;b&gt;insulator&lt;/b&gt;' in html
    assert CLASSES[1] in html
    assert 'has learnt next to nothing' not in html


@needs_chromium
def test_the_page_opens_in_chromium_without_a_console_message_and_its_table_follows_the_slider(odd):
    folder, _ = odd
    dom, console = open_page((folder / 'report.html').as_uri(), '--dump-dom')
    assert console == []
    table = re.search(r'<table class="sortable" id="threshold-table">(.*?)</table>', dom, re.DOTALL)[1]
    first_row = re.findall(r'<td[^>]*>(.*?)</td>', re.findall(r'<tr.*?</tr>', table, re.DOTALL)[1])
    assert first_row[0] == 'all classes'
    # At the start, the slider is where F1 is highest: the columns that the script fills say what the others do.
    assert first_row[5:7] == first_row[2:4]
    right, wrong, missed = (int(cell) for cell in first_row[7:])
    assert right + missed == sum(number for *_, number in IMAGES.values())
    assert right > 30 and wrong > 5


@needs_chromium
def test_every_picture_and_chart_of_the_page_has_a_size(odd):
    folder, html = odd
    script = """<script>
    const broken = [];
    for (const e of document.querySelectorAll('.picture, .chart svg, table, img')) {
      const box = e.getBoundingClientRect();
      if (box.width < 20 || box.height < 5) broken.push(e.outerHTML.slice(0, 80));
      if (box.right > innerWidth && !e.closest('.confusion')) broken.push('too wide: ' + e.outerHTML.slice(0, 80));
    }
    if (document.documentElement.scrollWidth > innerWidth) broken.push('the page scrolls sideways');
    for (const e of document.querySelectorAll('use')) {
      const name = e.getAttribute('href') ?? e.getAttribute('xlink:href');
      if (!document.querySelector(name)) broken.push(e.outerHTML);
    }
    const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
    ids.forEach((id, i) => { if (ids.indexOf(id) !== i) broken.push('doubled: ' + id); });
    const table = document.querySelector('#accuracy-table');
    const values = () => [...table.rows].slice(2).map((row) => row.cells[2].textContent);
    for (const sign of [-1, 1]) {
      table.rows[0].cells[2].click();
      const sorted = values().slice().sort((a, b) => sign * (a - b));
      if (values().join() !== sorted.join()) broken.push('not sorted: ' + values());
    }
    if (!table.rows[1].classList.contains('all')) broken.push('all classes not first');
    parent.postMessage(`${document.querySelectorAll('.picture').length} pictures, broken: ${broken}`, '*');
    </script></body>"""
    (folder / 'probed.html').write_text(html.replace('</body>', script))
    for width in (1100, 390):
        # A window of Chromium's is at least 500 pixels wide.
        frame = f'<iframe src="probed.html" width="{width}" height="900"></iframe>'
        script = '<script>onmessage = (e) => { document.title = e.data; }</script>'
        (folder / 'frame.html').write_text(script + frame)
        page = (folder / 'frame.html').as_uri()
        dom, _ = open_page(page, '--dump-dom', '--window-size=1300,900', '--virtual-time-budget=3000')
        title = re.search('<title>(.*?)</title>', dom)[1]
        number, _, broken = title.partition(' pictures, broken: ')
        assert int(number) >= 10 and broken == ''


def test_nothing_found_at_all_is_said(tmp_path, monkeypatch, capsys):
    write_odd_images(tmp_path, mask_scores=False, found=False)
    # Training data that cannot be read are no reason to make no page.
    options = ['--cfg-options', f'train_dataloader.dataset.ann_file={tmp_path}/config.py']
    run_here(monkeypatch, tmp_path / 'config.py', tmp_path / 'results.pkl', '--out', tmp_path / 'report.html', *options)
    assert 'the training data are left out of the page: annotation file' in capsys.readouterr().out
    html = (tmp_path / 'report.html').read_text()
    assert 'Nothing was found at all' in html
    assert 'gives no mask scores, or found nothing' in html
    assert 'This checkpoint has learnt next to nothing' in html


def test_a_checkpoint_is_evaluated_with_attention_and_the_curves_of_its_training(tmp_path, monkeypatch, capsys):
    write_rectangles(tmp_path / 'data', num_images=4)
    config = rectangles_config(tmp_path / 'data')
    config.model.test_cfg.bbox_head.score_thr = 0.0
    config.dump(tmp_path / 'config.py')
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    (tmp_path / 'run/2026/vis_data').mkdir(parents=True)
    records = [
        '{"loss": 2.5, "loss_mask": 1.0, "step": 1}',
        '{"coco/segm_mAP": 0.25, "coco/boundary_mAP": 0.125, "step": 1}',
        '{"loss": 1.5, "st',
    ]
    (tmp_path / 'run/2026/vis_data/scalars.json').write_text('\n'.join(records))
    last = dict(state_dict=model.state_dict(), optimizer={}, meta=dict(epoch=0, iter=48))
    torch.save(last, tmp_path / 'run/iter_48.pth')
    # Nothing was found at any validation: the first of them is the best one.
    best = tmp_path / 'run/best_coco_segm_mAP_iter_4.pth'
    torch.save(dict(state_dict={}, message_hub=dict(runtime_info=dict(best_score=0.0))), best)
    out = tmp_path / 'out/report.html'
    result = run(
        *(tmp_path / 'config.py', best, '--out', out, '--work-dir', tmp_path / 'work'),
        *('--num-images', '1', '--score-thr', '0'),
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert f'the last checkpoint, {tmp_path}/run/iter_48.pth, is taken instead' in result.stdout + result.stderr
    # The tools that draw find the best threshold there, if any detection is right.
    assert (tmp_path / 'run/report.json').exists() == ('best threshold' in result.stdout)
    html = out.read_text()
    assert '<title>Report on CenterMask (config, iter_48)</title>' in html
    assert f'iter_48.pth (the AP of {best} is 0, as at every validation of its training)' in html
    assert 'alt="attention for' in html
    assert 'AP on the validation images' in html
    assert 'mathdefault' not in html
    assert 'Each dot is a detection' in html
    # The predictions lie beside it: the page can be made again without the model.
    run_here(monkeypatch, tmp_path / 'config.py', out.with_suffix('.pkl'), '--out', out)
    assert capsys.readouterr().out.splitlines()[-2] == result.stdout.splitlines()[-2]
    # Data on which there can be no page are refused before they are predicted.
    config.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[config.test_dataloader.dataset] * 2)
    metrics = [config.test_evaluator] * 2
    config.test_evaluator = dict(type='MultiDatasetsEvaluator', metrics=metrics, dataset_prefixes=['a', 'b'])
    config.dump(tmp_path / 'joined.py')
    arguments = (tmp_path / 'joined.py', tmp_path / 'run/iter_48.pth', '--work-dir', tmp_path / 'work')
    with pytest.raises(InputError, match='is not one data set in the format of COCO'):
        run_here(monkeypatch, *arguments)
    assert not (tmp_path / 'work/report.pkl').exists()


def test_a_checkpoint_of_mask_rcnn_with_this_mask_head_is_evaluated_with_attention(tmp_path, monkeypatch):
    write_rectangles(tmp_path / 'data', num_images=2)
    config = Config.fromfile(CONFIGS / 'sag_mask/mask-rcnn_r50_fpn_sag_1x_coco.py')
    config.model.backbone.update(depth=18, init_cfg=None)
    config.model.neck.update(in_channels=[64, 128, 256, 512])
    config.model.roi_head.bbox_head.num_classes = config.model.roi_head.mask_head.num_classes = 2
    config.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
    data = rectangles_config(tmp_path / 'data')
    config.merge_from_dict(dict(test_dataloader=data.test_dataloader, test_evaluator=data.test_evaluator))
    config.dump(tmp_path / 'config.py')
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(config.model).state_dict()), tmp_path / 'model.pth')
    out = tmp_path / 'report.html'
    run_here(
        monkeypatch,
        *(tmp_path / 'config.py', tmp_path / 'model.pth', '--out', out, '--work-dir', tmp_path / 'work'),
        *('--num-images', '1', '--score-thr', '0'),
    )
    html = out.read_text()
    assert 'alt="attention for' in html
    assert 'gives no mask scores' in html


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('config.py', 'none.pkl'), 'do not exist: make them with mmdet-sag test --out'),
        (('config.py', 'broken.pkl'), 'damaged or no pickle'),
        (('config.py', 'none.pth'), 'give the path of a checkpoint'),
        (('config.py', 'results.pkl', '--out', '.'), 'is a folder'),
        (('config.py', 'results.pkl', '--out', 'broken.pkl/report.html'), 'cannot be written to'),
        (('config.py', 'results.pkl', '--score-thr', '30'), 'scores are between 0 and 1'),
        (
            ('config.py', 'results.pkl', '--cfg-options', 'test_dataloader.dataset.ann_file=other.json'),
            'give the config that they were predicted with',
        ),
        (
            ('config.py', 'results.pkl', '--cfg-options', 'test_dataloader.dataset.ann_file=broken.pkl'),
            'is not valid JSON',
        ),
    ],
)
def test_bad_input_is_named_with_the_remedy(odd, arguments, message, monkeypatch):
    folder, _ = odd
    (folder / 'broken.pkl').write_bytes(b'no pickle')
    (folder / 'other.json').write_text('{"images": [], "annotations": [], "categories": []}')
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=re.escape(message)):
        run_here(monkeypatch, *arguments)


def test_bad_input_is_one_line(tmp_path):
    result = run(tmp_path / 'config.py', 'results.pkl')
    assert result.returncode == 2
    assert [line for line in result.stderr.splitlines() if 'error' in line] == result.stderr.splitlines()[-1:]
    assert 'Traceback' not in result.stderr
