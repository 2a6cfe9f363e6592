"""Convert labels of any common format to a data set in COCO's format, on which every config of this package can train.

SRC is a folder or file of YOLO segmentation, LabelMe, CVAT, VGG Image Annotator, Label Studio, ISAT, Supervisely,
Datumaro, SA-1B, Pascal VOC masks or boxes, Cityscapes instance ids, instance-mask pictures, a picture for each object,
or COCO; several are merged. DIR gets annotations/instances_{train,val}.json, train/ and val/.
"""

import argparse
import shlex
import sys
from pathlib import Path

from terminaltables import AsciiTable

from mmdet_sag.command_line import HelpFormatter, run_command
from mmdet_sag.datasets.converters import FORMATS, LabelConversion, ReadOptions
from mmdet_sag.errors import InputError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument('sources', nargs='+', type=Path, metavar='SRC', help='folders or files of labels')
    parser.add_argument('--out', required=True, type=Path, metavar='DIR', help='folder of the data set')
    parser.add_argument('--overwrite', action='store_true', help='replace an earlier data set in DIR')
    parser.add_argument('--format', choices=list(FORMATS), help='label format; default: detected')
    parser.add_argument(
        '--images', type=Path, metavar='DIR', help='folder of the images, if they are not beside the labels'
    )
    parser.add_argument('--link', action='store_true', help='link the images instead of copying them')
    group = parser.add_argument_group('classes')
    group.add_argument(
        '--source-classes',
        nargs='+',
        metavar='NAME',
        help='class names by their number, if no file has them',
    )
    group.add_argument(
        '--rename', nargs='+', default=[], metavar='OLD=NEW', help='rename classes; classes of the same name are merged'
    )
    group.add_argument('--classes', nargs='+', metavar='NAME', help='classes to keep, in this order; default: all')
    group = parser.add_argument_group('split')
    group.add_argument('--val', type=float, default=0.2, metavar='SHARE', help='validation share; default: 0.2')
    group.add_argument('--seed', type=int, default=0, help='seed of the split; default: 0')
    group.add_argument(
        '--group-by',
        metavar='REGEX',
        help="keep images together if this matches the same text in their names, e.g. '^[^/]+' for a folder",
    )
    group.add_argument('--resplit', action='store_true', help="ignore the sources' split")
    group.add_argument('--split-anew', action='store_true', help=argparse.SUPPRESS)
    group = parser.add_argument_group('ambiguous labels')
    group.add_argument(
        '--exif',
        choices=['turned', 'stored'],
        help='whether labels belong to images as their EXIF orientation turns them, or as stored',
    )
    group.add_argument(
        '--components',
        action=argparse.BooleanOptionalAction,
        help='whether each connected region of a mask is an object',
    )
    group.add_argument('--crowds-are-objects', action='store_true', help='take crowd regions of COCO files as objects')
    group.add_argument(
        '--boxes',
        action='store_true',
        help='keep objects that have a box and no outline, and take rectangles for boxes: masks are learnt from them',
    )
    group.add_argument(
        '--skip', nargs='+', type=Path, default=[], metavar='FILE', help='annotation files that are not read'
    )
    group.add_argument(
        '--merge', action='store_true', help='take the objects of all files that label an image, each once'
    )
    group.add_argument(
        '--max-left-out',
        type=float,
        default=0.1,
        metavar='SHARE',
        help='share of images or objects that may be left out because they are broken; default: 0.1',
    )
    group.add_argument(
        '--class-attribute', metavar='NAME', help='which attribute of a region is its class (VGG Image Annotator)'
    )
    return parser.parse_args()


def renames(entries: list) -> dict:
    pairs = [entry.partition('=') for entry in entries]
    for old, sign, new in pairs:
        if not sign or not new:
            raise InputError(f"--rename '{old}{sign}{new}' is not OLD=NEW: for example --rename isolator=insulator")
    return {old: new for old, _, new in pairs}


def main() -> None:
    args = parse_args()
    if args.split_anew:
        print('warning: --split-anew is now called --resplit', file=sys.stderr)
    absent = [path for path in args.skip if not path.is_file()]
    if absent:
        raise InputError(f"--skip '{absent[0]}' does not exist: name an annotation file below the source")
    options = ReadOptions(
        class_names=args.source_classes,
        image_folder=args.images,
        exif=args.exif,
        components=args.components,
        crowds_are_objects=args.crowds_are_objects,
        skip=args.skip,
        class_attribute=args.class_attribute,
        boxes=args.boxes,
    )
    conversion = LabelConversion(args.sources, options, args.format, args.max_left_out, args.merge)
    conversion.check_target(args.out, args.overwrite)
    new_names = renames(args.rename)
    conversion.read()
    if new_names:
        conversion.rename(new_names)
    if args.classes:
        conversion.choose(args.classes)
    conversion.split(args.val, args.seed, args.group_by, args.resplit or args.split_anew)
    conversion.write(args.out, args.link)
    print('\n'.join(conversion.notes))
    rows = conversion.counts()
    print(AsciiTable(rows).table)
    for name, *counts in rows[2 : 2 + len(conversion.classes)]:
        for split, count in zip(rows[0][1:], counts):
            if not count:
                print(f'note: {split} has no object of class {name}')
    if conversion.left_out:
        print(AsciiTable(conversion.left_out_counts()).table)
        print(f'all of them: {args.out / "annotations/left_out.csv"}')
    out = shlex.quote(str(args.out))
    print(f'made: {args.out}\nnext: mmdet-sag make-config {out} --model centermask-lite_v39 --out my.py')


if __name__ == '__main__':
    run_command(main)
