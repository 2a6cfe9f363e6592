"""Exported models beside PyTorch's, from the image tensor to mask probabilities."""

import argparse

import cv2
import numpy as np
import torch
from benchmark_inputs import loaded, test_pipeline_of
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope

from mmdet_sag.datasets.data_sources import config_images
from mmdet_sag.deployment.comparison import measure_speed
from mmdet_sag.deployment.formats import load_predictor
from mmdet_sag.deployment.model_export import build_detector
from mmdet_sag.engine.launch import load_config
from mmdet_sag.errors import InputError


def measure_exported(config: str, checkpoint: str, args: argparse.Namespace) -> dict:
    """Run PyTorch's model, as the config builds it, and exported ones in turns.

    Args:
        config: Config file.
        checkpoint: Checkpoint file.
        args: ``exported``, the files of the models; ``image`` or ``size`` of noise, otherwise the first image of the
            config's test data is used; ``runs``, ``warmup``, ``threads`` and ``cfg_options``.

    Returns:
        Height and width of the ``input``, and median ``seconds`` of each model.
    """
    options = dict(config=config, cfg_options=args.cfg_options, launcher='none', local_rank=0, work_dir=None)
    cfg = load_config(argparse.Namespace(**options))
    init_default_scope('mmdet')
    detector = build_detector(cfg, checkpoint)
    models = {path: load_predictor(path, args.threads or 0).model for path in args.exported}
    batch = _batch(cfg, args)
    seconds = measure_speed(detector, models, batch, args.runs, args.warmup)
    height, width = detector.data_preprocessor(batch, False)['inputs'].shape[2:]
    print(f'{height}x{width} on {torch.get_num_threads()} threads; each in turn, median of {args.runs}')
    for name, value in seconds.items():
        print(f'{value * 1000:8.1f} ms  {value / seconds["PyTorch"]:5.2f}  {name}')
    return dict(input=[height, width], seconds=seconds)


def _batch(cfg: Config, args: argparse.Namespace) -> dict:
    if args.image is None and args.size is None:
        return next(config_images(cfg, 1))
    if args.size:
        image = np.random.default_rng(0).integers(0, 256, (*args.size, 3), dtype=np.uint8)
    else:
        image = cv2.imread(args.image)
        if image is None:
            raise InputError(f'image {args.image} cannot be read, check the path')
    return pseudo_collate([test_pipeline_of(cfg, resize=True)(dict(loaded(image), img_id=0))])
