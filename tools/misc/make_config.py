"""Write a short config for your own data. It inherits a config of the zoo, and sets classes, paths, image size,
schedule, learning rate and starting weights. The tool prints what it chose, and why. Train with mmdet-sag train.
"""

import argparse
import shlex
from pathlib import Path

from mmdet_sag.command_line import HelpFormatter, run_command
from mmdet_sag.configuration.training_data_summary import TrainingDataSummary
from mmdet_sag.errors import InputError
from mmdet_sag.fileio import atomic_write, check_writable_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument('data', type=Path, metavar='DATA', help='folder that mmdet-sag convert-data made')
    parser.add_argument(
        '--model',
        required=True,
        help='model of the zoo, such as centermask-lite_v39 or '
        'centermask-rtmdet-s, or with a backbone of timm, such as centermask-lite_v39/convnext_tiny',
    )
    parser.add_argument('--out', required=True, type=Path, metavar='FILE.py', help='config to write')
    parser.add_argument('--load-from', metavar='FILE', help='checkpoint of the same model to start from')
    parser.add_argument(
        '--weights',
        choices=['auto', 'imagenet', 'random'],
        default='auto',
        help="start without --load-from: the weights that come with the model, or ImageNet's of the backbone, if they "
        "are on this machine, and random ones otherwise; ImageNet's (downloaded); or random ones; default: auto",
    )
    parser.add_argument('--batch-size', type=int, metavar='N', help='images per step and process; default: 4')
    parser.add_argument('--gpus', type=int, default=1, metavar='N', help='processes that will train; default: 1')
    parser.add_argument('--epochs', type=int, metavar='N', help='number of epochs; default: by the number of images')
    parser.add_argument('--short-side', type=int, metavar='PIXELS', help='shorter side of the images; default: by data')
    parser.add_argument('--crop', type=int, metavar='PIXELS', help='train on squares cut from the resized images')
    parser.add_argument('--overwrite', action='store_true', help='replace FILE.py if it exists')
    return parser.parse_args()


def check_out(out: Path, overwrite: bool) -> None:
    if out.suffix != '.py':
        raise InputError(f"--out '{out}': a config is a Python file, name it {out.stem or 'my'}.py")
    if out.exists() and not overwrite:
        raise InputError(f"--out '{out}' exists: name another file, or replace it with --overwrite")
    check_writable_file(out, '--out')


def main() -> None:
    args = parse_args()
    check_out(args.out, args.overwrite)
    data = TrainingDataSummary.of_folder(args.data)
    # They import MMDetection, which takes seconds: mistakes so far are reported at once.
    from mmdet_sag.checkpoints.zoo import find_zoo_config
    from mmdet_sag.configuration.generated_config import GeneratedConfig

    detector, _, backbone = (args.model, '', '') if args.model.endswith('.py') else args.model.partition('/')
    base = find_zoo_config(detector)
    config = GeneratedConfig(
        data,
        base,
        backbone=backbone or None,
        load_from=args.load_from,
        weights=args.weights,
        batch_size=args.batch_size,
        num_processes=args.gpus,
        epochs=args.epochs,
        short_side=args.short_side,
        crop=args.crop,
    )
    try:
        with atomic_write(args.out, 'w') as file:
            file.write(config.text(args.out))
    except OSError as error:
        raise InputError(f"--out '{args.out}' cannot be written: {error.strerror}") from error
    width = max(len(choice.what) for choice in config.choices)
    for choice in config.choices:
        print(f'{choice.what:{width}}  {choice.value}: {choice.why}')
    out = shlex.quote(str(args.out))
    train = f'mmdet-sag train {out}'
    if args.gpus > 1:
        train = f'torchrun --nproc-per-node {args.gpus} -m mmdet_sag train {out} --launcher pytorch'
    print(f'written: {args.out}\nnext: {train}')


if __name__ == '__main__':
    run_command(main)
