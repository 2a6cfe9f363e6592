"""Turn labels of any common form into a data set in COCO's format, which every config of this package can train on.

SRC is a folder or file of YOLO segmentation, LabelMe, Pascal VOC masks, Cityscapes instance ids, instance-mask
pictures, or COCO; several are merged. DIR gets annotations/instances_{train,val}.json, train/ and val/.
"""

import argparse
from pathlib import Path

from terminaltables import AsciiTable

from mmdet_sag.command_line import run_command
from mmdet_sag.datasets.converters import FORMATS, Conversion, ReadOptions
from mmdet_sag.errors import InputError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sources', nargs='+', type=Path, metavar='SRC', help='folders or files of labels')
    parser.add_argument('--out', required=True, type=Path, metavar='DIR', help='folder of the data set')
    parser.add_argument('--overwrite', action='store_true', help='replace an earlier data set in DIR')
    parser.add_argument('--format', choices=list(FORMATS), help='form of the labels; default: found')
    parser.add_argument('--images', type=Path, metavar='DIR', help='folder of the images, if not beside the labels')
    parser.add_argument('--link', action='store_true', help='make links to the images instead of copies')
    group = parser.add_argument_group('classes')
    group.add_argument(
        '--source-classes',
        nargs='+',
        metavar='NAME',
        help='names of the class numbers, where no file says them',
    )
    group.add_argument('--rename', nargs='+', default=[], metavar='OLD=NEW', help='other names; equal names merge')
    group.add_argument('--classes', nargs='+', metavar='NAME', help='classes to keep, in this order; default: all')
    group = parser.add_argument_group('split')
    group.add_argument('--val', type=float, default=0.2, metavar='SHARE', help='validation share; default: 0.2')
    group.add_argument('--seed', type=int, default=0, help='another seed gives another split')
    group.add_argument(
        '--group-by',
        metavar='REGEX',
        help="keep images together where this finds the same text in their names, e.g. '^[^/]+' for a folder",
    )
    group.add_argument('--split-anew', action='store_true', help="ignore the sources' own split")
    group = parser.add_argument_group('where the files can be understood in two ways')
    group.add_argument(
        '--exif',
        choices=['turned', 'stored'],
        help='which picture was labelled, where its size does not tell',
    )
    group.add_argument(
        '--components',
        action=argparse.BooleanOptionalAction,
        help='whether each connected region of a mask picture is an object',
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
    options = ReadOptions(args.source_classes, args.images, args.exif, args.components)
    conversion = Conversion(args.sources, options, args.format)
    conversion.check_target(args.out, args.overwrite)
    new_names = renames(args.rename)
    conversion.read()
    if new_names:
        conversion.rename(new_names)
    if args.classes:
        conversion.choose(args.classes)
    conversion.split(args.val, args.seed, args.group_by, args.split_anew)
    conversion.write(args.out, args.link)
    print('\n'.join(conversion.notes))
    rows = conversion.counts()
    print(AsciiTable(rows).table)
    for name, *counts in rows[2:]:
        for split, count in zip(rows[0][1:], counts):
            if not count:
                print(f'note: {split} has no object of class {name}')
    print(
        f'made: {args.out}\nnext: python tools/misc/make_config.py {args.out} --model centermask-lite_v39 --out my.py'
    )


if __name__ == '__main__':
    run_command(main)
