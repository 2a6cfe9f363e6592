import argparse
import sys
from pathlib import Path

from mmdet_sag.command_line import HelpFormatter, run_command
from mmdet_sag.fileio import check_writable_folder

# demo/ lies beside tools/ in a clone and in an installed package.
sys.path.append(str(Path(__file__).resolve().parents[2] / 'demo'))
from demo_shapes import make_demo_shapes


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Make the demo data set: textured shapes that occlude each other, in COCO format',
        formatter_class=HelpFormatter,
    )
    parser.add_argument('--out', default='data/demo', help='directory of the data set')
    parser.add_argument('--num-train', type=int, default=400, help='number of training images')
    parser.add_argument('--num-val', type=int, default=80, help='number of validation images')
    parser.add_argument('--image-size', type=int, default=128, help='side of the images in pixels')
    parser.add_argument('--seed', type=int, default=0, help='seed of all random choices')
    parser.add_argument(
        '--panoptic', action='store_true', help='backgrounds of stuff classes, and panoptic annotations'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_writable_folder(args.out, '--out')
    made = make_demo_shapes(args.out, args.num_train, args.num_val, args.image_size, args.seed, args.panoptic)
    if made:
        print(f'{args.out}: {args.num_train} training and {args.num_val} validation images made')
    else:
        print(f'{args.out}: exists already, with the same parameters')


if __name__ == '__main__':
    run_command(main)
