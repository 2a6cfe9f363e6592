"""Make the demo data set, train CenterMask-Lite or Panoptic-CenterMask on it, evaluate the result and draw it."""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from demo_shapes import make_demo_shapes
from mmengine.config import Config
from result_pictures import draw_panoptic_grid, draw_result_grid, draw_training_curve, training_minutes
from terminaltables import AsciiTable
from tqdm import tqdm

from mmdet_sag.analysis import read_scalars
from mmdet_sag.command_line import HelpFormatter, run_command
from mmdet_sag.engine.checkpoint_files import AtomicFileBackend
from mmdet_sag.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
# In the log of a tool: the step, how many there are, and the loss.
STEP = {
    'dist_train.sh': r'Iter\(train\) \[ *(\d+)/(\d+)\].* (loss: [\d.]+)',
    'test.py': r'Iter\(test\) \[ *(\d+)/(\d+)\]()',
}
METRICS = (
    ('mask AP', 'coco/segm_mAP'),
    ('mask AP50', 'coco/segm_mAP_50'),
    ('mask AP75', 'coco/segm_mAP_75'),
    ('box AP', 'coco/bbox_mAP'),
    ('box AP50', 'coco/bbox_mAP_50'),
    ('box AP75', 'coco/bbox_mAP_75'),
)
PANOPTIC_METRICS = (
    ('PQ', 'coco_panoptic/PQ'),
    ('SQ', 'coco_panoptic/SQ'),
    ('RQ', 'coco_panoptic/RQ'),
    ('PQ things', 'coco_panoptic/PQ_th'),
    ('PQ stuff', 'coco_panoptic/PQ_st'),
    *METRICS,
)


class Demo(NamedTuple):
    """A variant of the demo: its config, the name of its folders, and the metrics that it prints."""

    config: Path
    name: str
    metrics: Sequence[tuple[str, str]]
    panoptic: bool


INSTANCE_DEMO = Demo(ROOT / 'configs/centermask_lite/centermask-lite_demo.py', 'demo', METRICS, False)
PANOPTIC_DEMO = Demo(
    ROOT / 'configs/panoptic_centermask/panoptic-centermask_demo.py', 'demo_panoptic', PANOPTIC_METRICS, True
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument('--panoptic', action='store_true', help='Panoptic-CenterMask, on images with stuff')
    parser.add_argument(
        '--work-dir', type=Path, help='folder of all results; default: work_dirs/demo, or demo_panoptic there'
    )
    parser.add_argument('--data-root', type=Path, help='folder of the data set; default: data/demo, or demo_panoptic')
    parser.add_argument('--cfg-options', nargs='+', default=[], help='settings that override the config: key=value ...')
    parser.add_argument('--quick', action='store_true', help='a few images and steps: shows that everything runs')
    parser.add_argument('--retrain', action='store_true', help='train again, even if a finished training is there')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        run(args)
    except KeyboardInterrupt:
        print('\nInterrupted: the same command goes on from the last checkpoint.', file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def run(args: argparse.Namespace) -> None:
    demo = PANOPTIC_DEMO if args.panoptic else INSTANCE_DEMO
    data_root = (args.data_root or ROOT / 'data' / demo.name).resolve()
    work_dir = (args.work_dir or ROOT / 'work_dirs' / demo.name).resolve()
    say(f'1/4 Data set: {data_root}')
    made = make_demo_shapes(data_root, panoptic=demo.panoptic, **(dict(num_train=16, num_val=8) if args.quick else {}))
    print('made' if made else 'exists already')

    # A work folder that cannot be used is refused before the training.
    data_option, _ = path_option(data_root), path_option(work_dir)
    options = [f'{split}_dataloader.dataset.data_root={data_option}/' for split in ('train', 'val', 'test')]
    annotations = f'{data_option}/annotations'
    for split in ('val', 'test'):
        place = f'{split}_evaluator.0' if demo.panoptic else f'{split}_evaluator'
        options.append(f'{place}.ann_file={annotations}/instances_val2017.json')
        if demo.panoptic:
            options.append(f'{split}_evaluator.1.ann_file={annotations}/panoptic_val2017.json')
            options.append(f'{split}_evaluator.1.seg_prefix={annotations}/panoptic_val2017/')
    if args.quick:
        options += ['train_cfg.max_iters=4', 'train_cfg.val_interval=4', 'train_dataloader.batch_size=2']
        options += ['default_hooks.logger.interval=1', 'default_hooks.checkpoint.interval=2']
        # After so few steps all scores are low.
        options += ['model.test_cfg.bbox_head.score_thr=0.001']
    options += args.cfg_options

    config = Config.fromfile(demo.config)
    say(f'2/4 Training: {work_dir / "train"}')
    data = (data_root / 'demo_shapes.json').read_text()
    settings = dict(config=config.pretty_text, options=options, data=data)
    checkpoint = train(demo, work_dir, settings, args.retrain)
    say(f'3/4 Evaluation of {checkpoint}')
    metrics, predictions = evaluate(demo, work_dir, options, checkpoint)
    say('4/4 Pictures')
    scalars = read_scalars(work_dir / 'train')
    draw_training_curve(scalars, work_dir / 'training_curve.png')
    draw_grid = draw_panoptic_grid if demo.panoptic else draw_result_grid
    draw_grid(data_root, predictions, config.metainfo.palette, work_dir / 'results.png')
    print(f'{work_dir / "training_curve.png"}\n{work_dir / "results.png"}')
    print_table(demo, metrics, training_minutes(scalars))


def say(text: str) -> None:
    print(f'\n=== {text}', flush=True)


def train(demo: Demo, work_dir: Path, settings: dict, retrain: bool) -> Path:
    """Train, or resume a training of the same settings; returns the checkpoint."""
    train_dir, state_file = work_dir / 'train', work_dir / 'state.json'
    state = json.loads(state_file.read_text()) if state_file.is_file() else {}
    if retrain or state.get('settings') != settings:
        if train_dir.exists():
            print(f'starts again{"" if retrain else ", because the settings have changed"}')
            shutil.rmtree(train_dir)
        state = dict(settings=settings, checkpoint=None)
        AtomicFileBackend().put_text(json.dumps(state), state_file)
    if state['checkpoint'] and Path(state['checkpoint']).is_file():
        print('finished already; --retrain trains again')
        return Path(state['checkpoint'])
    script = ('dist_train.sh', demo.config, processes(), '--resume')
    run_tool(*script, work_dir=train_dir, options=settings['options'], PORT=free_port())
    state['checkpoint'] = (train_dir / 'last_checkpoint').read_text().strip()
    AtomicFileBackend().put_text(json.dumps(state), state_file)
    return Path(state['checkpoint'])


def processes() -> int:
    """Number of processes that train, with two images of a step each.

    Layers of so small a model gain little from a second thread, and much from a second process. There are two of them
    on any CPU, as their number decides what is learnt.
    """
    return 1 if torch.cuda.is_available() else 2


def free_port() -> str:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return str(free.getsockname()[1])


def evaluate(demo: Demo, work_dir: Path, options: list[str], checkpoint: Path) -> tuple[dict, Path]:
    """Evaluate a checkpoint; returns the metrics and the file of the predictions in COCO's result format."""
    test_dir = work_dir / 'test'
    shutil.rmtree(test_dir, ignore_errors=True)
    prefix = test_dir / 'predictions'
    place = 'test_evaluator.1' if demo.panoptic else 'test_evaluator'
    options = [*options, f'{place}.outfile_prefix={path_option(prefix)}']
    run_tool('test.py', demo.config, checkpoint, work_dir=test_dir, options=options)
    # MMEngine writes the metrics to <work dir>/<time stamp>/<time stamp>.json.
    (metrics_file,) = test_dir.glob('*/*.json')
    return json.loads(metrics_file.read_text()), Path(f'{prefix}.{"panoptic" if demo.panoptic else "segm"}.json')


def path_option(path: Path) -> str:
    """A path for ``--cfg-options``, relative to the folder that the tools run in.

    A comma, which the clone's own path may hold, separates the values of an option.
    """
    relative = os.path.relpath(path, ROOT)
    if ',' in relative:
        raise InputError(f'{str(path)!r} holds a comma: name a folder without one with --data-root and --work-dir')
    return relative


def run_tool(name: str, *args: Path | str | int, work_dir: Path, options: list[str], **variables: str) -> None:
    """Run a tool, with more variables: its steps become a progress bar, its log stays in its work folder."""
    program = sys.executable if name.endswith('.py') else 'bash'
    command = [program, ROOT / 'tools' / name, *args, '--work-dir', work_dir, '--cfg-options', *options]
    # The script calls the first `python`. On a busy machine, threads that spin while they wait slow each other down up
    # to ten times.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get('PATH', os.defpath)])
    env = {'OMP_WAIT_POLICY': 'PASSIVE', **os.environ, 'PATH': path, **variables}
    last_lines: deque[str] = deque(maxlen=40)
    process = subprocess.Popen(
        [str(part) for part in command], env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with process, tqdm(unit='step', delay=1) as progress:
        try:
            for line in process.stdout or ():
                last_lines.append(line)
                if step := re.search(STEP[name], line):
                    if progress.total is None:
                        # The start takes longer than a step.
                        progress.reset(int(step[2]))
                    progress.set_postfix_str(step[3], refresh=False)
                    progress.update(int(step[1]) - progress.n)
        except KeyboardInterrupt:
            # It was interrupted too, and may have a checkpoint to write.
            process.communicate()
            raise
    if process.returncode != 0:
        print(*last_lines, sep='', file=sys.stderr)
        raise InputError(f'tools/{name} stopped with status {process.returncode}: see its message above')


def print_table(demo: Demo, metrics: dict, minutes: float) -> None:
    # Panoptic quality is in percent.
    metrics = {key: value / 100 if key.startswith('coco_panoptic') else value for key, value in metrics.items()}
    # MMDetection reports no metrics if the model found nothing.
    rows = [(name, f'{metrics[key]:.3f}' if key in metrics else 'no detections') for name, key in demo.metrics]
    rows += [('training', f'{minutes:.1f} min'), ('machine', machine())]
    table = AsciiTable(rows)
    table.inner_heading_row_border = False
    print(f'\n{table.table}')


def machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = (line.split(':')[1].strip() for line in lines if line.startswith('model name'))
    return f'{next(names, platform.machine())}, {torch.get_num_threads()} threads'


if __name__ == '__main__':
    run_command(main)
