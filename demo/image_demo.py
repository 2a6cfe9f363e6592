"""Detect objects in images: draw them, and write them in COCO's format."""

import argparse
import glob
import os
from contextlib import ExitStack
from pathlib import Path

import mmcv
import numpy as np
from demo_arguments import add_arguments, make_predictor, nothing_found
from mmcv.image import imwrite
from mmdet.structures import DetDataSample
from tqdm import tqdm

from mmdet_sag.apis import CocoPredictions, ImagePredictor, panoptic_image
from mmdet_sag.command_line import HelpFormatter, run_command
from mmdet_sag.datasets.converters.source_files import IMAGE_SUFFIXES
from mmdet_sag.errors import InputError
from mmdet_sag.fileio import check_writable_folder
from mmdet_sag.visualization import write_picture

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')
# Images without a detection that are named one by one.
_MAX_NAMED = 5


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        'img',
        nargs='?',
        default=str(Path(__file__).with_name('demo.jpg')),
        help="image file, folder, or pattern such as 'photos/*.jpg' in quotes; default: an image of the demo",
    )
    add_arguments(parser)
    parser.add_argument(
        '--out', '--out-dir', default='outputs', help='folder that gets pictures (vis/) and results.json'
    )
    parser.add_argument('--no-pictures', action='store_true', help='write results.json alone')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    out_dir = Path(args.out)
    paths = find_images(args.img, out_dir / 'vis')
    check_writable_folder(out_dir, '--out')
    out_dir.mkdir(parents=True, exist_ok=True)
    predictor = make_predictor(args)
    predictions = CocoPredictions(predictor.classes, predictor.score_thr)
    root = Path(os.path.commonpath([path.parent for path in paths]))
    left_out, empty, stems, num_found = [], [], set(), 0
    with tqdm(total=len(paths), unit='image') as progress, ExitStack() as at_end:
        # Of the images up to there also after Ctrl-C or an error.
        at_end.callback(lambda: predictions.images and predictions.write(out_dir / 'results.json'))
        for start in range(0, len(paths), args.batch_size):
            batch = [(path, read(path)) for path in paths[start : start + args.batch_size]]
            left_out += [f'{path}: left out, because it cannot be read as an image' for path, im in batch if im is None]
            num_files = len(batch)
            batch = [(path, image) for path, image in batch if image is not None]
            for (path, image), sample in zip(batch, predict(predictor, [image for _, image in batch])):
                if isinstance(sample, InputError):
                    left_out.append(f'{path}: left out, {sample}')
                    continue
                name = str(path.relative_to(root))
                predictions.add(name, sample, *image.shape[:2])
                if not args.no_pictures:
                    write_picture(predictor.draw(image, sample), str(out_dir / 'vis' / name))
                shown = 0
                if 'pred_instances' in sample:
                    shown = int((sample.pred_instances.scores >= predictor.score_thr).sum())
                num_found += shown
                if 'pred_panoptic_seg' in sample:
                    stem = str(Path(name).with_suffix(''))
                    # a.jpg and a.png may lie side by side.
                    stem = name if stem in stems else stem
                    stems.add(stem)
                    segments = panoptic_image(sample.pred_panoptic_seg, len(predictor.classes))
                    imwrite(segments[..., ::-1], str(out_dir / 'preds' / f'{stem}_panoptic_seg.png'))
                elif not shown:
                    empty.append(nothing_found(name, predictor.best_score(sample), predictor.score_thr))
            progress.update(num_files)
    for line in left_out[:_MAX_NAMED]:
        print(line)
    if len(left_out) > _MAX_NAMED:
        print(f'... and {len(left_out) - _MAX_NAMED} more images are left out')
    if len(left_out) == len(paths):
        raise InputError(f'none of the {len(paths)} files of {args.img} can be read as an image: {left_out[0]}')
    for line in empty[:_MAX_NAMED]:
        print(line)
    if len(empty) > _MAX_NAMED:
        print(f'... and the same in {len(empty) - _MAX_NAMED} more images')
    num_images = len(predictions.images)
    print(f'{num_found} detections in {num_images} image{"s" if num_images != 1 else ""}: {out_dir}')


def predict(predictor: ImagePredictor, images: list[np.ndarray]) -> list[DetDataSample | InputError]:
    """Predict images together; where one cannot be predicted, each by itself, and the error stands in its place."""
    try:
        return predictor.predict(images)
    except InputError as e:
        return [e] if len(images) == 1 else [sample for image in images for sample in predict(predictor, [image])]


def find_images(source: str, pictures: Path) -> list[Path]:
    """Find the images that a file, folder or pattern names, without the pictures of an earlier run.

    Raises:
        InputError: There are no images.
    """
    path = Path(source)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise InputError(f'folder {source} holds no images: name another, or a pattern such as {source}/*/*.jpg')
        return found
    if path.is_file():
        if path.suffix.lower() in VIDEO_SUFFIXES:
            raise InputError(f'{source} is a video: give it to mmdet-sag predict-video')
        return [path]
    paths = map(Path, glob.glob(source, recursive=True))
    found = sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise InputError(f'{source} does not exist: check the path, or the pattern')
    # Unless it names them alone.
    return [path for path in found if pictures.resolve() not in path.resolve().parents] or found


def read(path: Path):
    """An image, BGR, (H, W, 3), or None if it cannot be read."""
    try:
        return mmcv.imread(str(path))
    # Damaged files raise many kinds of errors.
    except Exception:
        return None


if __name__ == '__main__':
    run_command(main)
