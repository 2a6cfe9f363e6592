"""Deprecated, works for one release: tools/analysis_tools/benchmark.py CONFIG --checkpoints FILE --exported MODEL."""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'analysis_tools'))

import torch

# Before mmdet: in a clone that is not installed, this finds the operators that mmdet wants.
import mmdet_sag  # noqa: F401

# isort: split
from benchmark_exported import measure_exported
from mmdet.utils import register_all_modules

from mmdet_sag.command_line import HelpFormatter, run_command
from mmdet_sag.engine.launch import ConfigOptions
from mmdet_sag.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('exported', metavar='models', nargs='+', help='exported models')
    parser.add_argument('--image', help='image file')
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help='size of noise')
    parser.add_argument('--runs', type=int, default=10, help='measured runs of each')
    parser.add_argument('--warmup', type=int, default=2, help='runs before those')
    parser.add_argument('--threads', type=int, default=0, help='threads; default: one per core')
    parser.add_argument('--out', help='JSON file that gets the results')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, help="settings that replace the config's")
    parser.set_defaults(ap=False)
    args = parser.parse_args()
    print(f'tools/deployment/benchmark.py: {__doc__}', file=sys.stderr)
    if args.runs < 1:
        raise InputError(f'--runs {args.runs}: at least one run is needed')
    if args.threads:
        torch.set_num_threads(args.threads)
    register_all_modules(init_default_scope=False)
    results = measure_exported(args.config, args.checkpoint, args)
    if args.out:
        Path(args.out).write_text(json.dumps(results, indent=2))


if __name__ == '__main__':
    run_command(main)
