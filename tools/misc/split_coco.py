"""Split an annotation file in COCO's format into labelled and unlabelled images, for semi-supervised training.

By default the folds are those of MMDetection's tool of this name: the fold is the seed, images are drawn with
replacement. With --positions a file lists the labelled images, as Unbiased Teacher and Polite Teacher publish theirs
(COCO_supervision.txt): their positions among the images with objects, sorted by id.
"""

import argparse
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmdet_sag.command_line import HelpFormatter, run_command
from mmdet_sag.datasets.coco_file import load_coco
from mmdet_sag.errors import InputError
from mmdet_sag.fileio import atomic_write, check_writable_folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument('ann_file', type=Path, metavar='FILE.json', help='annotation file to split')
    parser.add_argument('--out', '--out-dir', required=True, type=Path, metavar='DIR', help='folder for the parts')
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
        shares = {float(key): value for key, value in content.items()}
    except FileNotFoundError as error:
        raise InputError(
            f"--positions '{path}' does not exist: give the path of a published file, or leave --positions out, which "
            "draws MMDetection's folds"
        ) from error
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"--positions '{path}' cannot be read as a mapping of shares to positions: {error}") from error
    if percent not in shares:
        raise InputError(f"--positions '{path}' has no {percent:g} %: it has {', '.join(content)}")
    positions = shares[percent]
    if isinstance(positions, dict):
        if str(fold) not in positions:
            raise InputError(f"--positions '{path}' has no fold {fold}: it has {', '.join(positions)}")
        positions = positions[str(fold)]
    if not isinstance(positions, list) or not all(isinstance(position, int) for position in positions):
        raise InputError(f"--positions '{path}' has no list of whole numbers for {percent:g} %: correct it")
    return positions


def drawn_split(content: dict, percent: float, fold: int) -> tuple[dict, dict]:
    """Split all images as MMDetection's ``split_coco.py`` does.

    Args:
        content: Content of an annotation file.
        percent: Share of the labelled images. They are drawn with replacement, so there are fewer.
        fold: Seed of the draw.

    Returns:
        Contents of the labelled and the unlabelled annotation file, which keeps its annotations.

    Raises:
        InputError: The share is less than one image.
    """
    images = content['images']
    num_drawn = int(percent / 100.0 * len(images))
    if num_drawn == 0:
        raise InputError(f'{percent:g} % of {len(images)} images is less than one: give a larger share')
    drawn = np.random.RandomState(fold).choice(range(len(images)), size=num_drawn)
    return divided(content, images, set(drawn.tolist()), content['annotations'])


def listed_split(content: dict, positions: Sequence[int]) -> tuple[dict, dict]:
    """Split the images that have objects at published positions, without their crowds.

    Args:
        content: Content of an annotation file.
        positions: Positions of the labelled images among the images with an object that is not a crowd, sorted by id.

    Returns:
        As :func:`drawn_split`.

    Raises:
        InputError: A position is beyond the images, or there are no positions.
    """
    objects = [annotation for annotation in content['annotations'] if not annotation.get('iscrowd')]
    with_object = {annotation['image_id'] for annotation in objects}
    images = sorted((image for image in content['images'] if image['id'] in with_object), key=lambda image: image['id'])
    if not positions or not 0 <= min(positions) <= max(positions) < len(images):
        raise InputError(
            f'the positions do not fit the {len(images)} images with objects: give the annotation file that they were '
            'published for'
        )
    return divided(content, images, set(positions), objects)


def divided(content: dict, images: Sequence[dict], labelled: set[int], annotations: list[dict]) -> tuple[dict, dict]:
    parts = [], []
    for index, image in enumerate(images):
        parts[index not in labelled].append(image)
    contents = []
    for part in parts:
        ids = {image['id'] for image in part}
        contents.append(
            {**content, 'images': part, 'annotations': [item for item in annotations if item['image_id'] in ids]}
        )
    return tuple(contents)


def write(content: dict, path: Path) -> None:
    with atomic_write(path, 'w') as file:
        json.dump(content, file)


def main() -> None:
    args = parse_args()
    check_writable_folder(args.out, '--out')
    content = load_coco(str(args.ann_file))
    for kind, key in (('images', 'id'), ('annotations', 'image_id')):
        if not all(isinstance(entry, dict) and isinstance(entry.get(key), (int, str)) for entry in content[kind]):
            raise InputError(f"annotation file '{args.ann_file}': an entry of {kind} has no usable {key}: correct it")
    for percent in args.percent:
        if not 0 < percent < 100:
            raise InputError(f'--percent {percent:g}: give shares between 0 and 100')
    args.out.mkdir(parents=True, exist_ok=True)
    for fold in args.fold:
        for percent in args.percent:
            if args.positions:
                labelled, unlabelled = listed_split(content, read_positions(args.positions, percent, fold))
            else:
                labelled, unlabelled = drawn_split(content, percent, fold)
            stem = args.out / f'{args.ann_file.stem}.{fold}@{percent:g}'
            write(labelled, Path(f'{stem}.json'))
            write(unlabelled, Path(f'{stem}-unlabeled.json'))
            print(
                f'{stem}.json: {len(labelled["images"])} labelled images with '
                f'{len(labelled["annotations"])} objects, {len(unlabelled["images"])} unlabelled'
            )


if __name__ == '__main__':
    run_command(main)
