import argparse

from mmdet_sag.apis import ImagePredictor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that the demos of images and videos have in common."""
    parser.add_argument(
        'config',
        nargs='?',
        default='centermask-lite_demo-14k',
        help='config file, name of a model, or exported model or its folder; default: the model that comes with '
        'mmdet_sag, for images of the demo',
    )
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file; default: the weights of the named model')
    parser.add_argument(
        '--device', help='device, e.g. cpu or cuda:0; by default the best, and the CPU for an exported model'
    )
    parser.add_argument(
        '--score-thr',
        '--pred-score-thr',
        type=float,
        help="lowest score that is shown and written; default: the best of the model's report, or 0.5",
    )
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='classes to show; by default all')
    parser.add_argument('--batch-size', type=int, default=1, help='images, or tiles, that the model gets together')
    parser.add_argument(
        '--tiles', type=int, metavar='SIDE', help='predict in tiles of this many pixels, and the whole image, and join'
    )
    parser.add_argument('--tile-overlap', type=float, default=0.25, help='share of a tile that its neighbour has too')


def make_predictor(args: argparse.Namespace) -> ImagePredictor:
    """Build what predicts from the flags of :func:`add_arguments`.

    Raises:
        InputError: A flag cannot be used.
    """
    return ImagePredictor(
        args.config,
        args.checkpoint,
        device=args.device,
        score_thr=args.score_thr,
        classes=args.classes,
        batch_size=args.batch_size,
        tile_size=args.tiles,
        tile_overlap=args.tile_overlap,
    )


def nothing_found(name: str, best, score_thr: float) -> str:
    """Say that nothing is above the threshold, and what is closest to it.

    Args:
        name: What was looked at.
        best: Result of :meth:`ImagePredictor.best_score`.
        score_thr: The threshold.
    """
    if best is None:
        return f'{name}: nothing was found'
    score, label = best
    return f'{name}: nothing has a score of {score_thr:g} or more; the best is {score:.3f} ({label}), see --score-thr'
