"""Check data sets in COCO's format, and write a repaired copy if asked to: all that a config names, or the annotation
files of a folder.

Exit status: 0 all clean, 1 problems found, 2 cannot check.
"""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from terminaltables import AsciiTable

from mmdet_sag.command_line import ExitStatus, HelpFormatter, run_command
from mmdet_sag.errors import InputError
from mmdet_sag.fileio import atomic_write, check_writable_file

if TYPE_CHECKING:
    from mmdet_sag.checks import DataSetReport

_EXAMPLES_SHOWN = 3


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument('config', metavar='CONFIG|DATA', help='config, or folder or annotation file of a data set')
    parser.add_argument(
        '--splits', nargs='+', choices=['train', 'val', 'test'], default=['train', 'val', 'test'], help='what to check'
    )
    parser.add_argument('--json', metavar='OUT', help='write what was found to this file')
    parser.add_argument(
        '--fix', metavar='OUT', help='write a repaired copy of the annotation file, of which there must be one'
    )
    parser.add_argument('--workers', type=int, default=os.cpu_count(), help='threads that decode images')
    parser.add_argument(
        '--cfg-options', nargs='+', action='extend', default=[], help='settings that replace those of the config'
    )
    parser.add_argument('--images', type=Path, metavar='DIR', help='folder of the images of DATA, if it is elsewhere')
    # What only a run needs.
    parser.set_defaults(launcher='none', work_dir=None, local_rank=0)
    return parser.parse_args()


def check(args: argparse.Namespace) -> 'list[DataSetReport]':
    if not Path(args.config).exists():
        from mmdet_sag.checkpoints.zoo import find_config

        try:
            find_config(args.config)
        except InputError as e:
            raise InputError(
                f"'{args.config}' does not exist: give a config, or the folder or annotation file of data"
            ) from e
    from mmdet_sag.checks import check_data_sets, check_files

    workers = max(1, args.workers)
    data = Path(args.config)
    if data.is_dir() or data.suffix.lower() == '.json':
        if args.cfg_options:
            raise InputError(f"--cfg-options: '{data}' is no config: leave them out")
        return check_files(data, args.splits, workers, args.images)
    if args.images:
        raise InputError('--images: a config names its folders of images: set its data_prefix with --cfg-options')
    # It imports MMDetection, which takes seconds.
    from mmdet_sag.engine.launch import load_config, parse_options

    args.cfg_options = parse_options(args.cfg_options)
    return check_data_sets(load_config(args), args.splits, workers)


def print_report(report: 'DataSetReport') -> None:
    kind = 'annotations' if report.masks_needed else 'annotations (boxes alone)'
    print(
        f'{", ".join(report.options)}: {report.source.ann_file}, {len(report.content["images"])} images, '
        f'{len(report.content["annotations"])} {kind}, {len(report.source.classes)} classes'
    )
    rows = [['problem', 'count', 'stops', 'examples']]
    for problem in report.tally.as_rows():
        stops = [name for name in ('training', 'evaluation') if problem[f'stops_{name}']]
        examples = ', '.join(problem['examples'][:_EXAMPLES_SHOWN])
        rows.append([problem['meaning'], problem['count'], ', '.join(stops), examples])
    print(AsciiTable(rows).table if report.tally.counts else 'nothing found')


def fix(reports: 'list[DataSetReport]', path: str) -> None:
    from mmdet_sag.checks import repair_coco, write_coco

    sources = {os.path.realpath(report.source.ann_file) for report in reports}
    if len(sources) > 1:
        raise InputError(f'--fix writes one file, but {len(sources)} were checked: choose one with --splits')
    report = reports[0]
    bad_images = {image_id: kind for other in reports for image_id, kind in other.bad_images.items()}
    content, done = repair_coco(report.content, bad_images, report.masks_needed, report.source.boxes_suffice)
    for key in ('images', 'annotations'):
        if report.content[key] and not content[key]:
            raise InputError(
                f"--fix would leave none of the {len(report.content[key])} {key} of '{report.source.ann_file}', so "
                f"'{path}' is not written: correct what the table names"
            )
    write_coco(content, path, [report.source.ann_file])
    print(f'written: {path}, {len(content["images"])} images, {len(content["annotations"])} annotations')
    if done:
        print(AsciiTable([['done', 'count'], *sorted(done.items())]).table)


def main() -> ExitStatus:
    args = parse_args()
    for option, path in (('--json', args.json), ('--fix', args.fix)):
        if path:
            check_writable_file(path, option)
    reports = check(args)
    for report in reports:
        print_report(report)
    clean = all(report.is_clean for report in reports)
    if args.json:
        found = dict(config=args.config, clean=clean, data_sets=[report.as_dict() for report in reports])
        try:
            with atomic_write(args.json, 'w') as file:
                file.write(json.dumps(found, indent=2) + '\n')
        except OSError as error:
            raise InputError(f"'{args.json}' cannot be written: {error.strerror}") from error
    if args.fix:
        fix(reports, args.fix)
    return ExitStatus.DONE if clean else ExitStatus.PROBLEMS_FOUND


if __name__ == '__main__':
    run_command(main)
