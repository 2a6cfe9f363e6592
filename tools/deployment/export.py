"""Export a trained model to ONNX, OpenVINO or TorchScript: from the image tensor to boxes and mask probabilities.

The folder --out gets the model, the runtime that runs it without PyTorch, and report.json. The model is compared with
PyTorch's on images of the config's test data; if they disagree, no folder is written. docs/deployment.md has more.
"""

import argparse

import torch

# Before mmdet: in a clone that is not installed, this finds the operators that mmdet wants.
import mmdet_sag  # noqa: F401

# isort: split
from mmdet_sag.command_line import HelpFormatter, run_command
from mmdet_sag.deployment.formats import FORMATS
from mmdet_sag.deployment.model_export import ExportSettings, export
from mmdet_sag.deployment.onnx_operators import OPSET_VERSION, OPSET_VERSIONS
from mmdet_sag.engine.launch import ConfigOptions, load_config
from mmdet_sag.errors import InputError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--format', choices=sorted(FORMATS), default='onnx', help='format of the model')
    precisions = sorted({precision for model_format in FORMATS.values() for precision in model_format.precisions})
    parser.add_argument('--precision', choices=precisions, default='fp32', help='type of its numbers')
    parser.add_argument(
        '--out', required=True, help='folder to write; a previous export there is replaced, if nothing else is in it'
    )
    parser.add_argument('--images', type=int, default=20, help='test images that are compared; 0: do not compare')
    parser.add_argument('--calibration-images', type=int, default=300, help='training images for int8')
    parser.add_argument('--runs', type=int, default=5, help='measured runs of each model; 0: do not measure')
    parser.add_argument('--threads', type=int, default=0, help='threads of the comparison; default: one per core')
    parser.add_argument('--detections', type=int, metavar='N', help='pad the outputs to N detections per image')
    parser.add_argument(
        '--input-size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='the one size of images that the model takes, which they are resized and padded to; default: any size',
    )
    parser.add_argument(
        '--preprocessing',
        action='store_true',
        help='the model takes uint8 images of any size, which it resizes and normalizes itself; with --input-size',
    )
    parser.add_argument('--opset', type=int, choices=OPSET_VERSIONS, help=f'of an ONNX file; default: {OPSET_VERSION}')
    switch = argparse.BooleanOptionalAction
    parser.add_argument('--ap', action=switch, help='evaluate before and after on all test data; default: for int8')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, help="settings that replace the config's")
    parser.set_defaults(launcher='none', local_rank=0, work_dir=None)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    lowest = dict(images=0, calibration_images=1, runs=0, threads=0, detections=1)
    for option, limit in lowest.items():
        if getattr(args, option) is not None and getattr(args, option) < limit:
            raise InputError(f'--{option.replace("_", "-")} {getattr(args, option)}: at least {limit} is needed')
    if args.input_size and min(args.input_size) < 64:
        raise InputError(f'--input-size {" ".join(map(str, args.input_size))}: at least 64 64 is needed')
    if args.opset and args.format != 'onnx':
        raise InputError(f'--opset {args.opset} is of ONNX files: leave it out, or use --format onnx')
    if args.threads:
        torch.set_num_threads(args.threads)
    settings = ExportSettings(
        model_format=args.format,
        precision=args.precision,
        num_images=args.images,
        num_calibration_images=args.calibration_images,
        num_runs=args.runs,
        num_threads=args.threads,
        num_detections=args.detections,
        opset=args.opset or OPSET_VERSION,
        input_size=tuple(args.input_size) if args.input_size else None,
        prepares_images=args.preprocessing,
        measure_ap=args.precision == 'int8' if args.ap is None else args.ap,
    )
    export(load_config(args), args.checkpoint, args.out, settings)


if __name__ == '__main__':
    run_command(main)
