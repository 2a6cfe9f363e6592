"""Detect objects in a video file or in what a camera sees: a video with the detections drawn, and COCO's format."""

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from demo_arguments import add_arguments, make_predictor, nothing_found
from tqdm import tqdm

from mmdet_sag.apis import CocoPredictions
from mmdet_sag.command_line import HelpFormatter, run_command
from mmdet_sag.errors import InputError
from mmdet_sag.fileio import check_writable_file

# MPEG-4 and VP8: what OpenCV's wheels can write. Browsers play .webm alone.
CODECS = {'.mp4': 'mp4v', '.webm': 'VP80', '.avi': 'MJPG', '.mkv': 'mp4v'}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument('video', help='video file, or the number of a camera, e.g. 0')
    add_arguments(parser)
    parser.add_argument('--out', default='outputs/video.mp4', help=f'video to write: {", ".join(CODECS)}')
    parser.add_argument('--results', help="file, .json, that gets the detections of each frame in COCO's format")
    parser.add_argument('--max-frames', type=int, help='end after so many frames')
    parser.add_argument('--show', action='store_true', help='show the frames in a window; q ends')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    out = Path(args.out)
    if out.suffix.lower() not in CODECS:
        raise InputError(f'--out {args.out}: name a file that ends in {", ".join(CODECS)}')
    if args.results and not args.results.endswith('.json'):
        raise InputError(f'--results {args.results} must end in .json')
    if args.max_frames is not None and args.max_frames < 1:
        raise InputError(f'--max-frames {args.max_frames}: give 1 or more')
    capture = open_video(args.video)
    for path, option in ((out, '--out'), (args.results, '--results')):
        if path:
            check_writable_file(path, option, makes_folder=True)
            Path(path).parent.mkdir(parents=True, exist_ok=True)
    if Path(args.video).is_file() and out.exists() and out.samefile(args.video):
        raise InputError(f'--out {args.out} is the video itself: name another file')
    predictor = make_predictor(args)
    predictions = CocoPredictions(predictor.classes, predictor.score_thr)
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    total = min(total, args.max_frames or total) if total > 0 else args.max_frames
    # A camera may not know its own.
    fps = capture.get(cv2.CAP_PROP_FPS) or 25.0
    writer, best, num_found, num_frames = None, None, 0, 0
    frames = itertools.islice(read_frames(capture), args.max_frames)
    start = time.monotonic()
    try:
        with tqdm(total=total, unit='image') as progress:
            while batch := list(itertools.islice(frames, args.batch_size)):
                for frame, sample in zip(batch, predictor.predict(batch)):
                    picture = predictor.draw(frame, sample, strip=False)
                    if writer is None:
                        writer = make_writer(out, picture, fps)
                    writer.write(picture)
                    num_frames += 1
                    predictions.add(f'frame_{num_frames:06d}', sample, *frame.shape[:2])
                    score = predictor.best_score(sample)
                    best = max(filter(None, (best, score)), default=None)
                    if 'pred_instances' in sample:
                        num_found += int((sample.pred_instances.scores >= predictor.score_thr).sum())
                    progress.update()
                    if args.show and _show(picture):
                        raise KeyboardInterrupt
    except KeyboardInterrupt:
        # How one ends a camera: what was seen so far is a whole video.
        print('stopped')
    finally:
        capture.release()
        if writer is not None:
            writer.release()
    if not num_frames:
        raise InputError(f'{args.video}: has no frame that can be read')
    if not num_found:
        print(nothing_found(args.video, best, predictor.score_thr))
    if args.results:
        predictions.write(args.results)
    rate = num_frames / (time.monotonic() - start)
    print(f'{num_found} detections in {num_frames} frames, {rate:.1f} images/s: {out}')


def open_video(source: str) -> cv2.VideoCapture:
    """Open a file or a camera.

    Raises:
        InputError: It is not there, or no video.
    """
    if source.isdigit():
        capture, what = cv2.VideoCapture(int(source)), f'camera {source}'
    elif Path(source).is_file():
        capture, what = cv2.VideoCapture(source), f'video {source}'
    else:
        raise InputError(f'{source} does not exist: check the path, or give the number of a camera')
    if not capture.isOpened():
        raise InputError(f'{what} cannot be opened: check that it is one, and that OpenCV knows its format')
    return capture


def read_frames(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """Frames, BGR, until there are no more."""
    while True:
        there, frame = capture.read()
        if not there:
            return
        yield frame


def make_writer(path: Path, picture: np.ndarray, fps: float) -> cv2.VideoWriter:
    """Open a video file to write.

    Raises:
        InputError: This build of OpenCV cannot write its format.
    """
    height, width = picture.shape[:2]
    code = cv2.VideoWriter_fourcc(*CODECS[path.suffix.lower()])
    writer = cv2.VideoWriter(str(path), code, fps, (width, height))
    if not writer.isOpened():
        raise InputError(f'--out {path}: OpenCV cannot write this format here; try one that ends in .avi')
    return writer


def _show(picture: np.ndarray) -> bool:
    """Show a frame; whether the user wants to end."""
    cv2.imshow('mmdet_sag', picture)
    return cv2.waitKey(1) & 0xFF == ord('q')


if __name__ == '__main__':
    run_command(main)
