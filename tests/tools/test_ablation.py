"""The ablation: variants are trained alike, once, and come into a table."""

import json
from pathlib import Path

import pytest
from support.tiny import import_classes
from support.tiny_training import rectangles_config, write_rectangles
from support.tool import run_tool

TOOL = Path(__file__).parents[2] / 'tools/misc/ablation.py'
OWN = ('--variant', 'mask-rcnn-sag7', '--variant', 'agnostic', 'model.roi_head.mask_head.class_agnostic=True')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ablation')
    write_rectangles(folder / 'data')
    config = rectangles_config(folder / 'data')
    config.train_cfg.max_iters = 1
    text = '\n'.join(f'{key} = {value!r}' for key, value in config.to_dict().items())
    (folder / 'tiny.py').write_text(text)
    import_classes(folder / 'tiny.py')
    return folder


def run(folder, *arguments):
    return run_tool(TOOL, 'tiny.py', '--work-dir', 'runs', '--seeds', 3, 4, *arguments, cwd=folder)


def rows(finished):
    assert finished.returncode == 0, finished.stderr
    lines = [line.strip('| ').split(' | ') for line in finished.stdout.splitlines() if line.startswith('| ')]
    return {line[0]: line[1:] for line in lines[2:]}


def test_each_variant_is_trained_once_with_each_seed_and_averaged(folder):
    table = rows(run(folder, *OWN))
    assert list(table) == ['mask-rcnn-sag7', 'agnostic']
    assert [row[-1] for row in table.values()] == ['2', '2']
    paths = [folder / f'runs/{name}/{seed}/result.json' for name in table for seed in (3, 4)]
    for path, value in zip(paths, (0.1, 0.2, 0.3, 0.5)):
        result = json.loads(path.read_text())
        assert result['ms_per_image'] > 0
        # Each run logs into its own folder.
        assert len(list(path.parent.glob('*/vis_data/scalars.json'))) == 1
        path.write_text(json.dumps({**result, 'segm_mAP': value}))
    again = run(folder, *OWN)
    assert 'Iter(train)' not in again.stdout
    table = rows(again)
    # Means and standard deviations of samples.
    assert [row[0] for row in table.values()] == ['15.0 ± 7.1', '40.0 ± 14.1']
    # What is not finished is left out of the table alone.
    assert rows(run(folder, '--table', *OWN, '--variant', 'centermask-fcn')) == table


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--variant', 'centermask-sag5'), '--variant centermask-sag5: give its options KEY=VALUE, or choose from'),
        ((*OWN, '--cfg-options', 'train_cfg.max_iters=2'), 'is of other settings: give another --work-dir'),
        (('--cfg-options', 'model.type=MaskRCNN'), "has a MaskRCNN, and the variants are a CenterMask's"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, folder):
    finished = run(folder, *arguments)
    assert finished.returncode == 2
    assert message in finished.stderr.splitlines()[-1]
