"""Measure the speed of models side by side, stage by stage, of exported models, or of masks' post-processing alone.

Models run in turns in one process, on one image, with random weights unless checkpoints are given. Each is a config
file of instance segmentation, ours or MMDetection's (``mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py``,
``mmdet::rtmdet/rtmdet-ins_s_8xb32-300e_coco.py``), and may have options behind a plus:

  +plain      as the config builds it, without what mmdet-sag test or FastTrainingHook prepare a model with
  +direct     without Winograd's convs
  +compile    torch.compile of backbone, neck and box head; --compile: of each model
  +amp        bfloat16 on a CPU, float16 on CUDA; --amp: of each model
  +bf16       bfloat16 on any device

A model of MMDetection runs plain unless it has +compile or +amp.
"""

import argparse
import json
from datetime import date
from pathlib import Path

import torch

# Before mmdet: in a clone that is not installed, this finds the operators that mmdet wants.
import mmdet_sag  # noqa: F401

# isort: split
from benchmark_exported import measure_exported
from benchmark_masks import masks_line, measure_masks, parse_size
from benchmark_measures import cpu_name
from benchmark_models import make_candidate, measure
from benchmark_report import GROWTH, draw, draw_growth, overview, table
from mmdet.utils import register_all_modules
from mmengine.logging import MMLogger

from mmdet_sag.command_line import HelpFormatter, run_command
from mmdet_sag.engine.launch import ConfigOptions
from mmdet_sag.errors import InputError
from mmdet_sag.fileio import check_writable_folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument('models', nargs='*', metavar='CONFIG[+OPTION...]', help='models; ratios are to the first')
    parser.add_argument('--checkpoints', nargs='+', default=[], help='checkpoint of each model, or none')
    parser.add_argument('--image', help='image file; without one, noise of the size --size')
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help='size of the noise; default: 480 640')
    parser.add_argument(
        '--detections', type=int, default=50, help='that many fixed boxes and masks replace those found; 0: do not'
    )
    parser.add_argument('--train', action='store_true', help='training steps instead')
    parser.add_argument('--amp', action='store_true', help='+amp for each model')
    parser.add_argument('--compile', action='store_true', help='+compile for each model')
    parser.add_argument(
        '--batch-size',
        type=int,
        nargs='+',
        help='images at a time, one or several numbers; default: 2 in training, else 1',
    )
    parser.add_argument(
        '--grow',
        nargs='+',
        metavar='AXIS=N,N,...',
        default=[],
        help='measure at each value of an axis, and draw how time and memory grow; axes: size (short side of an image '
        'of 3:4, which is not resized then), detections, batch',
    )
    parser.add_argument(
        '--masks', nargs='+', metavar='HxW', default=[], help="masks' post-processing alone, e.g. 800x1333"
    )
    parser.add_argument(
        '--exported',
        nargs='+',
        metavar='MODEL',
        default=[],
        help="exported models (model.onnx, model.xml, model.pt) beside PyTorch's, plain, of the one config and its one "
        'checkpoint; the image is the first of the test data unless --image or --size is given',
    )
    parser.add_argument('--ap', action='store_true', help='with --exported: AP of each on all test data')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, help="with --exported: replace the config's")
    parser.add_argument('--num-masks', type=int, default=100, help='masks of --masks')
    parser.add_argument('--runs', type=int, default=10, help='measured runs of each')
    parser.add_argument('--warmup', type=int, default=2, help='runs before those')
    parser.add_argument('--threads', type=int, help='threads of torch')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='device')
    parser.add_argument(
        '--out', '--out-dir', default='work_dirs/benchmark', help='folder that gets benchmark.json and .png'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if not args.models and not args.masks:
        raise InputError('nothing to measure: name a config, or sizes of images with --masks')
    if args.checkpoints and len(args.checkpoints) != len(args.models):
        raise InputError(f'{len(args.models)} models, but {len(args.checkpoints)} checkpoints: give one for each')
    if args.exported and not len(args.models) == len(args.checkpoints) == 1:
        raise InputError('--exported: give the one config, and with --checkpoints the one file, that were exported')
    for option in ('cfg_options', 'ap'):
        if getattr(args, option) and not args.exported:
            raise InputError(f'--{option.replace("_", "-")} is for --exported alone')
    if args.exported and (args.train or args.grow):
        raise InputError('--exported: leave out --train and --grow')
    if args.runs < 1:
        raise InputError(f'--runs {args.runs}: at least one run is needed')
    if args.grow and not args.models:
        raise InputError('--grow: name the configs to measure')
    growth = dict(parse_axis(text) for text in args.grow)
    args.resize = True
    for option in ('amp', 'compile'):
        if getattr(args, option):
            args.models = [f'{spec}+{option}' for spec in args.models]
    batch_sizes = args.batch_size or [2 if args.train else 1]
    if min(batch_sizes) < 1:
        raise InputError(f'--batch-size {min(batch_sizes)}: at least one image is needed')
    if len(batch_sizes) > 1 and args.grow:
        raise InputError('--batch-size: with --grow give one, or --grow batch=1,2')
    args.batch_size = batch_sizes[0]
    check_writable_folder(args.out, '--out')
    use_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    register_all_modules()
    if not args.exported:
        args.size = args.size or (480, 640)
    # Initialization is logged parameter by parameter.
    MMLogger.get_current_instance().setLevel('ERROR')
    report = dict(
        date=date.today().isoformat(),
        machine=cpu_name(),
        device=torch.cuda.get_device_name() if args.device.startswith('cuda') else 'cpu',
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        settings={key: value for key, value in vars(args).items() if key != 'models'},
        models=[],
        masks=[],
        growth={},
    )
    out_dir = Path(args.out)
    out_dir.mkdir(parents=True, exist_ok=True)
    for size in args.masks:
        report['masks'].append(measure_masks(parse_size(size), args))
        print(masks_line(report['masks'][-1]), flush=True)
    checkpoints = args.checkpoints or [None] * len(args.models)

    def measure_models(args: argparse.Namespace) -> list[dict]:
        results = measure([make_candidate(*pair, args) for pair in zip(args.models, checkpoints)], args)
        print(table(results), flush=True)
        return results

    if args.exported:
        report['exported'] = measure_exported(args.models[0], args.checkpoints[0], args)
    elif args.models and not growth:
        for batch_size in batch_sizes:
            print(f'{GROWTH["batch"]}: {batch_size}', flush=True)
            report['models'] += measure_models(_at(args, 'batch', batch_size))
        draw(report['models'][: len(args.models)], out_dir / 'benchmark.png')
        if len(batch_sizes) > 1:
            print(overview(report['models']))
    for axis, values in growth.items():
        points = []
        for value in values:
            print(f'{GROWTH[axis]}: {value}', flush=True)
            points.append(dict(value=value, models=measure_models(_at(args, axis, value))))
        report['growth'][axis] = points
        draw_growth(axis, points, out_dir / f'growth_{axis}.png')
    (out_dir / 'benchmark.json').write_text(json.dumps(report, indent=2))
    print(f'{out_dir}/benchmark.json')


def use_device(device: str) -> None:
    """Make a device the current one: events, and the peak of memory, are that one's."""
    try:
        torch.empty(0, device=device)
    # PyTorch raises RuntimeError, AssertionError or an error of the device.
    except Exception as e:
        raise InputError(f'--device {device} cannot be used here: give another, such as cpu') from e
    if torch.device(device).type == 'cuda':
        torch.cuda.set_device(torch.device(device).index or 0)


def parse_axis(text: str) -> tuple[str, list[int]]:
    axis, _, values = text.partition('=')
    values = values.split(',')
    if axis not in GROWTH or not all(value.isdigit() and int(value) for value in values):
        raise InputError(f'--grow {text}: write an axis, {", ".join(GROWTH)}, and its values as in detections=1,50,100')
    return axis, [int(value) for value in values]


def _at(args: argparse.Namespace, axis: str, value: int) -> argparse.Namespace:
    """The arguments at a value of an axis."""
    if axis == 'size':
        changes = dict(size=(value, round(value * 4 / 3)), image=None, resize=False)
    else:
        changes = dict(detections=value) if axis == 'detections' else dict(batch_size=value)
    return argparse.Namespace(**{**vars(args), **changes})


if __name__ == '__main__':
    run_command(main)
