"""Exported models beside PyTorch's: speed, size and AP."""

import argparse
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from benchmark_inputs import loaded, test_pipeline_of
from mmdet.registry import MODELS
from mmdet.structures.mask import encode_mask_results
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope

from mmdet_sag.checks import check_is_detector
from mmdet_sag.datasets.data_sources import config_images
from mmdet_sag.deployment.comparison import in_turns, measure_speed
from mmdet_sag.deployment.exported_detector import fit_images, use_exported_model
from mmdet_sag.deployment.formats import FORMATS, load_predictor
from mmdet_sag.deployment.model_export import build_detector, evaluate
from mmdet_sag.engine.launch import load_config
from mmdet_sag.errors import InputError
from mmdet_sag.structures.mask import RLEMasks


def measure_exported(config: str, checkpoint: str, args: argparse.Namespace) -> dict:
    """Run PyTorch's model, as the config builds it, and exported ones in turns.

    Args:
        config: Config file.
        checkpoint: Checkpoint file.
        args: ``exported``, the files of the models; ``image`` or ``size`` of noise, otherwise the first image of the
            config's test data is used; ``ap``, whether each is evaluated on all test data; ``runs``, ``warmup``,
            ``threads`` and ``cfg_options``.

    Returns:
        Height and width of the ``input``, and of each model median ``seconds`` from the image tensor to mask
        probabilities, ``program_seconds`` from the image file to run lengths, unless noise was measured, ``megabytes``
        and ``metrics``.
    """
    options = dict(config=config, cfg_options=args.cfg_options, launcher='none', local_rank=0, work_dir=None)
    cfg = load_config(argparse.Namespace(**options))
    check_is_detector(cfg)
    init_default_scope('mmdet')
    detector = build_detector(cfg, checkpoint)
    predictors = {path: load_predictor(path, args.threads or 0) for path in args.exported}
    # An image that fits into all models of one input size.
    fitted, sizes = copy.deepcopy(cfg), [predictor.metadata.get('input_size') for predictor in predictors.values()]
    fit_images(fitted, [min(sides) for sides in zip(*filter(None, sizes))] or None)
    batch = _batch(fitted, args)
    models = {path: predictor.model for path, predictor in predictors.items()}
    seconds = measure_speed(detector, models, batch, args.runs, args.warmup)
    height, width = detector.data_preprocessor(batch, False)['inputs'].shape[2:]
    results = dict(input=[height, width], seconds=seconds, program_seconds={}, megabytes={}, metrics={})
    if args.size is None:
        image = args.image or batch['data_samples'][0].img_path
        runs: dict[str, Callable] = dict(PyTorch=partial(_run_program, detector, cfg, image))
        runs.update({path: partial(predictor, image) for path, predictor in predictors.items()})
        results['program_seconds'] = in_turns(runs, args.runs, args.warmup)
    for path, predictor in predictors.items():
        file = Path(path)
        suffix = FORMATS[predictor.metadata['format']].suffix
        file = file / f'model{suffix}' if file.is_dir() else file
        files = {file, file.with_suffix('.bin')} if suffix == '.xml' else {file}
        results['megabytes'][path] = sum(part.stat().st_size for part in files) / 1e6
    if args.ap:
        results['metrics'] = {'PyTorch': evaluate(cfg, detector)}
        for path in args.exported:
            own = copy.deepcopy(cfg)
            use_exported_model(own, path)
            results['metrics'][path] = evaluate(own, MODELS.build(own.model).eval())
    print(f'{height}x{width} on {torch.get_num_threads()} threads; each in turn, median of {args.runs}')
    print(_table(results, {path: predictor.metadata for path, predictor in predictors.items()}))
    return results


@torch.inference_mode()
def _run_program(detector: torch.nn.Module, cfg: Config, path: str) -> list[dict]:
    """COCO's run lengths of the masks that PyTorch's model finds in an image file."""
    image = cv2.imread(path)
    masks = detector.test_step(_collated(cfg, image, path))[0].pred_instances.masks
    return list(masks) if isinstance(masks, RLEMasks) else encode_mask_results(masks.cpu().numpy())


def _table(results: dict, metadata: dict[str, dict]) -> str:
    """One row for each model, in Markdown."""
    names = sorted({name for metrics in results['metrics'].values() for name in metrics if name.endswith('_mAP')})
    short = [name.replace('coco/', '').replace('_', ' ').replace('segm', 'mask').replace('mAP', 'AP') for name in names]
    head = ['model', 'precision', *short, 'file to run lengths, ms', 'network, ms', 'share', 'MB']
    rows = [head, ['---'] * len(head)]
    for name, seconds in results['seconds'].items():
        whole = results['program_seconds'].get(name)
        size = results['megabytes'].get(name)
        rows.append(
            [
                name,
                metadata[name]['precision'] if name in metadata else 'fp32',
                *(f'{100 * results["metrics"][name][key]:.1f}' for key in names),
                '' if whole is None else f'{1000 * whole:.1f}',
                f'{1000 * seconds:.1f}',
                f'{seconds / results["seconds"]["PyTorch"]:.2f}',
                '' if size is None else f'{size:.1f}',
            ]
        )
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def _batch(cfg: Config, args: argparse.Namespace) -> dict:
    if args.image is None and args.size is None:
        return next(config_images(cfg, 1))
    if args.size:
        image = np.random.default_rng(0).integers(0, 256, (*args.size, 3), dtype=np.uint8)
    else:
        image = cv2.imread(args.image)
        if image is None:
            raise InputError(f'image {args.image} cannot be read, check the path')
    return _collated(cfg, image, args.image or '')


def _collated(cfg: Config, image: np.ndarray, path: str) -> dict:
    return pseudo_collate([test_pipeline_of(cfg, resize=True)(dict(loaded(image), img_id=0, img_path=path))])
