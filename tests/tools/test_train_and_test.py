import argparse
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.apis import DetInferencer
from support.small_graph import write_onnx
from support.tiny_training import rectangles_config, write_rectangles
from support.tool import run_tool

from mmdet_sag.engine.launch import add_arguments

pytestmark = pytest.mark.usefixtures('forked_torchrun')
ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools'
PORT = str(20000 + os.getpid() % 10000)
ENVIRONMENT = {
    **os.environ,
    # The scripts take the python of the active environment.
    'PATH': os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]),
    'PYTHONPATH': os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])),
    'OMP_NUM_THREADS': '1',
    'PORT': PORT,
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A folder with spaces in its path, with a data set and a config that learns it fast."""
    folder = tmp_path_factory.mktemp('my runs') / 'of today'
    write_rectangles(folder / 'my data', num_images=5)
    # Two images of one name.
    images, ann_file = folder / 'my data/images', folder / 'my data/annotations.json'
    (images / 'again').mkdir()
    (images / '5.png').rename(images / 'again/1.png')
    ann_file.write_text(ann_file.read_text().replace('"5.png"', '"again/1.png"'))
    config = rectangles_config(folder / 'my data')
    config.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-3))
    config.train_cfg.max_iters = 24
    config.custom_hooks = []
    # Low scores count too: this short training is to be measured, not good.
    config.model.test_cfg.bbox_head.score_thr = 0.01
    config.dump(folder / 'my config.py')
    return folder


def run(tool: Path, *arguments: object, folder: Path) -> str:
    """Run a tool in a folder and return what it printed; fail with it if the status is not 0."""
    if tool.suffix == '.py':
        process = run_tool(tool, *arguments, cwd=folder, env=ENVIRONMENT)
        assert process.returncode == 0, (process.stdout + process.stderr)[-3000:]
        return process.stdout + process.stderr
    process = subprocess.run(
        [tool, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **ENVIRONMENT},
        timeout=240,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.returncode == 0, process.stdout[-3000:]
    return process.stdout


@pytest.fixture(scope='module')
def checkpoint(folder, forked_torchrun) -> Path:
    """The last checkpoint of a training on two processes, started in another folder than the tools'."""
    run(TOOLS / 'dist_train.sh', 'my config.py', 2, '--work-dir', 'my work', folder=folder)
    return Path((folder / 'my work' / 'last_checkpoint').read_text())


def metrics(work_dir: Path) -> dict:
    (path,) = work_dir.glob('*/*.json')
    return {key: value for key, value in json.loads(path.read_text()).items() if 'mAP' in key}


def test_two_processes_train_and_evaluate_as_one(folder, checkpoint):
    assert checkpoint.name == 'iter_24.pth'
    arguments = ('my config.py', checkpoint)
    run(TOOLS / 'dist_test.sh', *arguments, 2, '--work-dir', 'two', folder=folder)
    run(
        TOOLS / 'test.py',
        *arguments,
        '--work-dir',
        'one',
        '--out',
        'out.pkl',
        '--show-dir',
        'drawn',
        folder=folder,
    )
    expected = metrics(folder / 'one')
    assert expected['coco/segm_mAP_50'] > 0
    # Five images on two processes: one is evaluated twice, and counts once.
    assert metrics(folder / 'two') == expected

    predictions = pickle.loads((folder / 'out.pkl').read_bytes())
    assert [prediction['img_id'] for prediction in predictions] == [1, 2, 3, 4, 5]
    (drawn,) = folder.glob('one/*/drawn')
    pictures = sorted(path.relative_to(drawn).as_posix() for path in drawn.rglob('*.png'))
    assert pictures == ['1.png', '2.png', '3.png', '4.png', 'again/1.png']


@pytest.mark.parametrize(
    'options', [[], ['--amp'], ['--cfg-options', 'sync_bn=torch', 'optim_wrapper.accumulative_counts=2']]
)
def test_nccl_trains(folder, tmp_path, device, options):
    if device == 'cpu' or not torch.cuda.is_available():
        pytest.skip('needs a GPU')
    run(TOOLS / 'dist_train.sh', 'my config.py', 1, '--work-dir', tmp_path / 'run', *options, folder=folder)
    checkpoint = (tmp_path / 'run/last_checkpoint').read_text()
    run(TOOLS / 'test.py', 'my config.py', checkpoint, '--work-dir', tmp_path / 'test', folder=folder)
    assert metrics(tmp_path / 'test')['coco/segm_mAP_50'] > 0


def test_mmdetections_own_test_tool_reads_the_checkpoint(folder, checkpoint):
    tool = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'test.py'
    run(Path(sys.executable), tool, 'my config.py', checkpoint, '--work-dir', 'mmdet', folder=folder)
    assert metrics(folder / 'mmdet')['coco/segm_mAP_50'] > 0


def test_mmdetections_inferencer_takes_the_checkpoint_alone_once_this_package_is_imported(folder, checkpoint):
    image = folder / 'my data' / 'images' / '1.png'
    (found,) = DetInferencer(weights=str(checkpoint))(str(image))['predictions']
    assert sorted(found) == ['bboxes', 'labels', 'masks', 'scores']


def test_a_killed_process_is_started_again_and_goes_on(folder):
    (folder / 'kill_once.py').write_text(
        'import os, signal\n'
        'from mmengine.hooks import Hook\n'
        'from mmengine.registry import HOOKS\n'
        '@HOOKS.register_module()\n'
        'class KillOnce(Hook):\n'
        '    def before_train_iter(self, runner, batch_idx, data_batch=None):\n'
        "        if runner.iter == 3 and runner.rank == 1 and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':\n"
        '            os.kill(os.getpid(), signal.SIGKILL)\n'
    )
    (folder / 'killed.py').write_text(
        "_base_ = './my config.py'\n"
        "custom_imports = dict(imports=['mmdet_sag', 'kill_once'])\n"
        "custom_hooks = [dict(type='mmengine.KillOnce')]\n"
        'train_cfg = dict(max_iters=6)\n'
    )
    environment = {
        **os.environ,
        **ENVIRONMENT,
        'MAX_RESTARTS': '1',
        'PYTHONPATH': f'{folder}:{ENVIRONMENT["PYTHONPATH"]}',
    }
    # Without --resume: the second start of the processes is no new run.
    command = [TOOLS / 'dist_train.sh', 'killed.py', '2', '--work-dir', 'killed']
    job = subprocess.run(command, cwd=folder, env=environment, timeout=200, capture_output=True, text=True)
    assert job.returncode == 0, job.stderr[-3000:]
    assert 'resumed epoch: 0, iter: 2' in job.stdout + job.stderr
    assert (folder / 'killed' / 'iter_6.pth').is_file()


@pytest.mark.parametrize('option', ["custom_hooks=[dict(type='EMAHook',momentum=0.1]", 'train_cfg.max_iters'])
def test_an_option_that_cannot_be_read_is_named(option, capsys):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(['config.py', '--cfg-options', option])
    assert f'cannot read {option}: write key=value' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ("('red car','dog')", ('red car', 'dog')),
        ("['red car', 'dog']", ['red car', 'dog']),
        ('/my data/', '/my data/'),
        ('my photos (1)/a [b]/', 'my photos (1)/a [b]/'),
        ("{'red car': 1}", {'red car': 1}),
        ("[dict(type='A', at=(1, 2)),dict()]", [dict(type='A', at=(1, 2)), {}]),
        ("dict(type='A b', inner=dict(x=1))", dict(type='A b', inner=dict(x=1))),
        ('[a, b]', ['a', 'b']),
        ('a,b', ['a', 'b']),
        ('(1)', (1,)),
        ('"[1]"', [1]),
        ('1,2', [1, 2]),
        ('1e-3', 1e-3),
        ('None', None),
        ('true', True),
    ],
)
def test_options_keep_the_spaces_of_their_strings(text, value):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = parser.parse_args(['config.py', '--cfg-options', f'key={text}', 'other=1']).cfg_options
    assert options == {'key': value, 'other': 1}


@pytest.mark.parametrize('text', ['[red car,dog]', 'red car,dog'])
def test_names_with_spaces_that_would_be_lost_are_refused(text, capsys):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(['config.py', '--cfg-options', f'key={text}'])
    assert 'names with spaces in quotes' in capsys.readouterr().err


def test_the_status_of_a_failed_job_is_not_0(folder):
    job = subprocess.run(
        [TOOLS / 'dist_train.sh', 'no config.py', '1'],
        cwd=folder,
        env={**os.environ, **ENVIRONMENT},
        timeout=120,
        capture_output=True,
    )
    assert job.returncode != 0
    assert b'error: config no config.py does not exist' in job.stderr


def error_of(tool: str, *arguments: object, folder: Path) -> str:
    """Run a tool and return the one line of its error."""
    process = run_tool(TOOLS / tool, *arguments, cwd=folder)
    assert process.returncode == 2, process.stderr
    assert 'Traceback' not in process.stderr
    (line,) = [line for line in process.stderr.splitlines() if line.startswith('error: ')]
    return line


@pytest.mark.parametrize(
    'tool, arguments, message',
    [
        ('train.py', ['no config.py'], 'does not exist'),
        ('train.py', ['broken.py'], 'cannot be read, SyntaxError'),
        ('train.py', ['my config.py', '--resume', 'no.pth'], 'no.pth: cannot be read'),
        ('train.py', ['my config.py', '--resume', 'cut.pth'], 'cut.pth: is damaged'),
        ('train.py', ['my config.py', '--amp'], '--amp needs a GPU'),
        ('test.py', ['my config.py', 'no.pth'], 'no.pth: cannot be read'),
        ('test.py', ['my config.py', 'cut.pth'], 'cut.pth: is damaged'),
        ('test.py', ['my config.py', 'cut.pth', '--out', 'out.txt'], 'must end in .pkl'),
        ('train.py', ['my config.py', '--work-dir', 'cut.pth/work'], '(--work-dir) cannot be written to'),
        ('test.py', ['my config.py', 'cut.pth', '--work-dir', 'cut.pth'], '(--work-dir) cannot be written to'),
        ('test.py', ['my config.py', 'cut.pth', '--out', 'cut.pth/out.pkl'], '(--out) cannot be written to'),
        ('misc/check_dataset.py', ['my config.py', '--fix', 'none/fixed.json'], '(--fix) cannot be written'),
        ('analysis_tools/benchmark.py', ['my config.py', '--out', 'cut.pth/out'], '(--out) cannot be written'),
        ('dataset_converters/make_demo_dataset.py', ['--out', 'cut.pth/data'], '(--out) cannot be written to'),
    ],
)
def test_bad_input_gets_one_line(folder, tool, arguments, message):
    if '--amp' in arguments and torch.cuda.is_available():
        pytest.skip('there is a GPU')
    (folder / 'broken.py').write_text('model = dict(')
    torch.save(dict(state_dict={'weight': torch.zeros(1000)}), folder / 'cut.pth')
    (folder / 'cut.pth').write_bytes((folder / 'cut.pth').read_bytes()[:2000])
    assert message in error_of(tool, *arguments, folder=folder)


def test_a_torchscript_file_is_announced_as_a_program(folder):
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), str(folder / 'relu.pt'))
    process = run_tool(TOOLS / 'test.py', 'my config.py', 'relu.pt', cwd=folder)
    assert process.returncode == 2
    assert 'relu.pt is a TorchScript program, and is run: use only one that you made' in process.stdout


def test_two_processes_evaluate_an_exported_model(folder):
    pytest.importorskip('onnxruntime')
    write_onnx(folder / 'exported')
    options = ['--launcher', 'pytorch', '--out', 'exported.pkl', '--work-dir', 'exported work']
    process = run_tool(TOOLS / 'test.py', 'my config.py', 'exported', *options, cwd=folder, processes=2)
    assert process.returncode == 0, process.stderr[-3000:]
    assert len(pickle.loads((folder / 'exported.pkl').read_bytes())) == 5


def test_a_new_run_in_a_used_folder_says_so_and_resume_names_what_it_leaves_out(folder):
    def train(*arguments: str) -> str:
        command = (TOOLS / 'train.py', 'my config.py', '--work-dir', 'used', *arguments)
        return ' '.join(run(*command, folder=folder).split())

    assert 'of an earlier run' not in train('--cfg-options', 'train_cfg.max_iters=4')
    text = train('--cfg-options', 'train_cfg.max_iters=2')
    assert 'used holds iter_4.pth, iter_2.pth of an earlier run, and this one starts from the beginning' in text
    text = train('--resume', '--cfg-options', 'train_cfg.max_iters=3')
    assert 'resumed epoch: 0, iter: 2' in text, 'not the newest file, which is of the earlier run'
    text = train('--resume', 'used/iter_4.pth', '--cfg-options', 'train_cfg.max_iters=4')
    assert 'nothing is left to train; raise it with --cfg-options train_cfg.max_iters=N' in text


def test_processes_with_folders_of_their_own_do_not_train_from_different_states(folder, checkpoint):
    ranks = [folder / 'node 0', folder / 'node 1']
    for rank, node in enumerate(ranks):
        (node / 'work').mkdir(parents=True)
        content = torch.load(checkpoint)
        content['state_dict']['bbox_head.conv_cls.bias'] += rank
        torch.save(content, node / 'work' / 'iter_24.pth')
        if rank == 1:
            torch.save(content, node / 'work' / 'iter_30.pth')

    def resume(rank: int) -> subprocess.CompletedProcess:
        job = dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=PORT)
        options = ('--launcher', 'pytorch', '--cfg-options', 'train_cfg.max_iters=30')
        command = (TOOLS / 'train.py', '../my config.py', '--work-dir', 'work', '--resume', *options)
        return run_tool(*command, cwd=ranks[rank], env={**ENVIRONMENT, **job})

    with ThreadPoolExecutor() as threads:
        jobs = [*threads.map(resume, range(2))]
    texts = [job.stderr for job in jobs]
    assert [job.returncode for job in jobs] == [2, 2], '\n\n'.join(text[-3000:] for text in texts)
    assert 'starts after iteration 24 and rank 0' in texts[0] and 'with other weights' in texts[0]
    assert [text.count('error: ') for text in texts] == [1, 0], texts[1][-3000:]


def test_training_parses_each_annotation_file_once_beside_the_metric(folder):
    data = folder / 'my data'
    (data / 'val.json').write_bytes((data / 'annotations.json').read_bytes())
    options = ('val_dataloader.dataset.ann_file=val.json', f'val_evaluator.ann_file={data / "val.json"}')
    command = (TOOLS / 'train.py', 'my config.py', '--work-dir', 'parsed')
    text = run(*command, '--cfg-options', 'train_cfg.max_iters=1', *options, folder=folder)
    # The checks read without a word; this is said by the COCO API, which the metric reads with.
    assert text.count('loading annotations into memory') == 1


def test_a_backbone_of_random_weights_trains(folder):
    resnet = "type='ResNet', depth=18, in_channels=3, out_indices=(1, 2, 3), frozen_stages=1, norm_eval=True"
    norm = "norm_cfg=dict(type='BN', requires_grad=False)"
    (folder / 'random.py').write_text(
        "_base_ = './my config.py'\n"
        f'model = dict(backbone=dict(_delete_=True, {resnet}, {norm}), neck=dict(in_channels=[128, 256, 512]))\n'
        "optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9))\n"
        'param_scheduler = []\n'
        'train_cfg = dict(max_iters=2)\n'
    )
    command = (TOOLS / 'train.py', 'random.py', '--work-dir', 'random')
    assert 'model.backbone starts from random weights, so it is not kept frozen' in run(*command, folder=folder)
    weights = torch.load(folder / 'random' / 'iter_2.pth')['state_dict']
    assert weights['backbone.bn1.running_mean'].abs().sum() > 0
    for resume in (['--resume'], ['--cfg-options', 'resume=True', 'load_from=random/iter_2.pth']):
        assert 'is not kept frozen' in run(*command, *resume, folder=folder), 'the resumed run is the same'


def test_the_checkpoint_of_another_model_is_refused(folder, tmp_path):
    torch.save(dict(state_dict={'backbone.conv1.weight': torch.zeros(1)}), tmp_path / 'other.pth')
    arguments = ('my config.py', tmp_path / 'other.pth', '--work-dir', tmp_path)
    error = error_of('test.py', *arguments, folder=folder)
    assert 'does not belong to this model' in error
