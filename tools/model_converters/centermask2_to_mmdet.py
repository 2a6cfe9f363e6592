import argparse

from checkpoint_conversion import convert_checkpoint
from timm_vovnet import IMAGENET_MEAN, IMAGENET_STD

from mmdet_sag.command_line import HelpFormatter, run_command


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        formatter_class=HelpFormatter,
        description='Convert a checkpoint of CenterMask2, of the first CenterMask, or ImageNet weights of the authors '
        'or of timm, to MMDetection',
    )
    parser.add_argument('src', help='checkpoint to convert (.pth, .pkl, .bin, .safetensors); no code in it is run')
    parser.add_argument('dst', help='checkpoint to write')
    parser.add_argument('--force', action='store_true', help='replace DST if it exists')
    for name, default in (('mean', IMAGENET_MEAN), ('std', IMAGENET_STD)):
        parser.add_argument(
            f'--timm-{name}',
            nargs=3,
            type=float,
            default=default,
            metavar=('R', 'G', 'B'),
            help=f"{name} of timm's pretrained_cfg, for timm's weights (default: {' '.join(map(str, default))})",
        )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    conversion = convert_checkpoint(args.src, args.dst, args.force, args.timm_mean, args.timm_std)
    print(conversion)
    print(f'written: {args.dst}')


if __name__ == '__main__':
    run_command(main)
