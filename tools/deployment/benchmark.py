"""Measure exported models beside PyTorch's, in turns in one process, from the image tensor to mask probabilities.

PyTorch's model runs as the config builds it, without what tools/test.py prepares a model with. The image is the first
of the config's test data, or --image, or noise of the size --size.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

# Before mmdet: in a clone that is not installed, this finds the operators that mmdet wants.
import mmdet_sag  # noqa: F401

# isort: split
import cv2
from mmcv.transforms import Compose
from mmdet.registry import TRANSFORMS
from mmdet.utils import register_all_modules
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope

from mmdet_sag.command_line import run_command
from mmdet_sag.datasets.config_datasets import config_images, test_dataset
from mmdet_sag.deployment.comparison import measure_speed
from mmdet_sag.deployment.formats import load_exported
from mmdet_sag.deployment.model_export import build_detector
from mmdet_sag.engine.launch import ConfigOptions, load_config
from mmdet_sag.errors import InputError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('models', nargs='+', help='exported models: model.onnx, model.xml or model.pt')
    parser.add_argument('--image', help='image file')
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help='size of noise')
    parser.add_argument('--runs', type=int, default=10, help='measured runs of each')
    parser.add_argument('--warmup', type=int, default=2, help='runs before those')
    parser.add_argument('--threads', type=int, default=0, help='threads; default: one per core')
    parser.add_argument('--out', help='JSON file that gets the results')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, help="settings that replace the config's")
    parser.set_defaults(launcher='none', local_rank=0, work_dir=None)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.runs < 1:
        raise InputError(f'--runs {args.runs}: at least one run is needed')
    if args.threads:
        torch.set_num_threads(args.threads)
    cfg = load_config(args)
    register_all_modules(init_default_scope=False)
    init_default_scope('mmdet')
    detector = build_detector(cfg, args.checkpoint)
    models = {path: load_exported(path, args.threads) for path in args.models}
    batch = _batch(cfg, args)
    seconds = measure_speed(detector, models, batch, args.runs, args.warmup)
    height, width = detector.data_preprocessor(batch, False)['inputs'].shape[2:]
    print(f'{height}x{width} on {torch.get_num_threads()} threads; each in turn, median of {args.runs}')
    for name, value in seconds.items():
        print(f'{value * 1000:8.1f} ms  {value / seconds["PyTorch"]:5.2f}  {name}')
    if args.out:
        Path(args.out).write_text(json.dumps(dict(input=[height, width], seconds=seconds), indent=2))


def _batch(cfg, args: argparse.Namespace) -> dict:
    if args.image is None and args.size is None:
        return next(config_images(cfg, 1))
    if args.size:
        image = np.random.default_rng(0).integers(0, 256, (*args.size, 3), dtype=np.uint8)
    else:
        image = cv2.imread(args.image)
        if image is None:
            raise InputError(f'image {args.image} cannot be read, check the path')
    steps = [step for step in test_dataset(cfg).pipeline if not step['type'].startswith('Load')]
    sample = dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2], img_path='', img_id=0)
    return pseudo_collate([Compose([TRANSFORMS.build(step) for step in steps])(sample)])


if __name__ == '__main__':
    run_command(main)
