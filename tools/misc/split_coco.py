"""Split an annotation file in COCO's format into labelled and unlabelled images, for semi-supervised training.

By default the folds are those of MMDetection's tool of this name: the fold is the seed, images are drawn with
replacement. With --positions the labelled images are listed in a file, as Unbiased Teacher and Polite Teacher publish
theirs (COCO_supervision.txt): their places among the images sorted by id, without those that have no object.
"""

import argparse
import gzip
import json
from pathlib import Path

from mmdet_sag.command_line import run_command
from mmdet_sag.datasets.coco_file import load_coco
from mmdet_sag.datasets.semi_split import SemiSplit, drawn_split, listed_split
from mmdet_sag.errors import InputError
from mmdet_sag.fileio import atomic_write, check_writable_folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('ann_file', type=Path, metavar='FILE.json', help='annotation file to split')
    parser.add_argument('--out-dir', required=True, type=Path, metavar='DIR', help='folder for the parts')
    parser.add_argument(
        '--percent', type=float, nargs='+', default=[1, 2, 5, 10], help='labelled shares; default: 1 2 5 10'
    )
    parser.add_argument('--fold', type=int, nargs='+', default=[1], help='folds; default: 1')
    parser.add_argument('--positions', type=Path, metavar='FILE', help='published positions, JSON, may be gzipped')
    return parser.parse_args()


def read_positions(path: Path, percent: float, fold: int) -> list[int]:
    """Positions of one share and fold; a file of one fold has lists where others have folds."""
    try:
        with (gzip.open if path.suffix == '.gz' else open)(path, 'rt') as file:
            content = json.load(file)
    except (OSError, ValueError) as error:
        raise InputError(f"--positions '{path}' cannot be read: {error}") from error
    shares = {float(key): value for key, value in content.items()}
    if percent not in shares:
        raise InputError(f"--positions '{path}' has no {percent:g} %: it has {', '.join(content)}")
    positions = shares[percent]
    if isinstance(positions, dict):
        if str(fold) not in positions:
            raise InputError(f"--positions '{path}' has no fold {fold}: it has {', '.join(positions)}")
        positions = positions[str(fold)]
    return positions


def write(content: dict, path: Path) -> None:
    with atomic_write(path, 'w') as file:
        json.dump(content, file)


def main() -> None:
    args = parse_args()
    check_writable_folder(args.out_dir, '--out-dir')
    content = load_coco(str(args.ann_file))
    for percent in args.percent:
        if not 0 < percent < 100:
            raise InputError(f'--percent {percent:g}: give shares between 0 and 100')
    args.out_dir.mkdir(parents=True, exist_ok=True)
    for fold in args.fold:
        for percent in args.percent:
            if args.positions:
                split: SemiSplit = listed_split(content, read_positions(args.positions, percent, fold))
            else:
                split = drawn_split(content, percent, fold)
            stem = args.out_dir / f'{args.ann_file.stem}.{fold}@{percent:g}'
            write(split.labelled, Path(f'{stem}.json'))
            write(split.unlabelled, Path(f'{stem}-unlabeled.json'))
            print(
                f'{stem}.json: {len(split.labelled["images"])} labelled images with '
                f'{len(split.labelled["annotations"])} objects, {len(split.unlabelled["images"])} unlabelled'
            )


if __name__ == '__main__':
    run_command(main)
