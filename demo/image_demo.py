"""Detect objects in an image, or in each image of a folder, and draw them."""

import argparse
from pathlib import Path

from mmdet_sag.apis import PanopticInferencer
from mmdet_sag.command_line import run_command
from mmdet_sag.errors import InputError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('img', help='image file or folder')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out-dir', default='outputs', help='folder that gets pictures (vis/) and results (preds/)')
    parser.add_argument('--device', help='device, e.g. cpu or cuda:0; by default the best that is there')
    parser.add_argument('--pred-score-thr', type=float, default=0.3, help='lowest score of a box that is drawn')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    for path in (args.img, args.config, args.checkpoint):
        if not Path(path).exists():
            raise InputError(f'{path} does not exist: check the path')
    inferencer = PanopticInferencer(args.config, args.checkpoint, device=args.device)
    inferencer(args.img, out_dir=args.out_dir, pred_score_thr=args.pred_score_thr, no_save_pred=False)


if __name__ == '__main__':
    run_command(main)
