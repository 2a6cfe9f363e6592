"""Evaluate a checkpoint and draw its results, with the flags of MMDetection's ``test.py``.

In the place of a checkpoint, a model that tools/deployment/export.py made may stand: model.onnx, model.xml or model.pt.
"""

import argparse
from copy import deepcopy

import torch

# Before mmdet: in a clone that is not installed, this finds the operators that mmdet wants.
import mmdet_sag  # noqa: F401

# isort: split
from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict

from mmdet_sag.checks import check_inputs, hand_over
from mmdet_sag.command_line import is_main_process_of_node
from mmdet_sag.datasets.data_sources import innermost_dataset
from mmdet_sag.deployment.exported_detector import is_exported
from mmdet_sag.deployment.metadata import dataset_meta
from mmdet_sag.engine.checkpoint_files import check_checkpoint_fits, load_checkpoint_file
from mmdet_sag.engine.launch import add_arguments, build_runner, check_work_dir, load_config, run_tool
from mmdet_sag.errors import InputError
from mmdet_sag.evaluation import DumpRLEResults
from mmdet_sag.fileio import check_writable_file
from mmdet_sag.models import TwoStageMaskTTAModel

_DEFAULT_TTA_CFG = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    # After the config and before the options, as in MMDetection.
    parser.add_argument('checkpoint', help='checkpoint file, or exported model')
    parser.add_argument('--out', help='file, .pkl or .pickle, that gets the predictions')
    parser.add_argument('--show', action='store_true', help='show the results in a window')
    parser.add_argument('--show-dir', help='folder inside <work dir>/<time stamp> that gets pictures of the results')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds that --show shows a picture')
    parser.add_argument('--tta', action='store_true', help="test-time augmentation; without the config's: a flip")
    switch = argparse.BooleanOptionalAction
    parser.add_argument('--fuse-conv-bn', action=switch, default=True, help='fold batch norms into convs')
    parser.add_argument('--channels-last', action=switch, default=True, help='memory format of the convs')
    parser.add_argument('--winograd', action=switch, default=True, help='fewer multiplications in convs, on a CPU')
    parser.add_argument('--compile', action='store_true', help='torch.compile backbone and neck')
    parser.add_argument('--amp', action='store_true', help='mixed precision: bfloat16 on a CPU, float16 on CUDA')
    return parser.parse_args()


def _predicts_masks(cfg: Config) -> bool:
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
    metrics = [evaluator.get('metric') or [] for evaluator in evaluators]
    return (
        'mask_head' in cfg.model
        or 'mask_head' in (cfg.model.get('roi_head') or {})
        or any('segm' in ([metric] if isinstance(metric, str) else metric) for metric in metrics)
    )


def use_tta(cfg: Config) -> None:
    """Put the model and the data through test-time augmentation.

    Raises:
        InputError: The model predicts masks that no model of test-time augmentation merges.
    """
    dataset = innermost_dataset(cfg.test_dataloader.dataset)
    if 'tta_pipeline' not in cfg:
        *steps, pack = deepcopy(dataset.pipeline)
        pack.meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
        flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
        cfg.tta_pipeline = [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])]
    tta_model = cfg.get('tta_model', dict(type='DetTTAModel', tta_cfg=_DEFAULT_TTA_CFG))
    if MODELS.get(tta_model['type']) is DetTTAModel and _predicts_masks(cfg):
        if not TwoStageMaskTTAModel.supports(cfg.model):
            raise InputError(
                f'--tta: the masks of {cfg.model.type} cannot be merged; set tta_model in {cfg.filename} to a model '
                'that can, or test without --tta'
            )
        rcnn = cfg.model.test_cfg.rcnn
        if 'tta_model' not in cfg:
            tta_model['tta_cfg'] = dict(nms=rcnn.nms, max_per_img=rcnn.max_per_img)
        tta_model = {**tta_model, 'type': 'TwoStageMaskTTAModel'}
    cfg.model = ConfigDict(**tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def use_exported(cfg: Config, args: argparse.Namespace) -> None:
    """Put an exported model in the place of the config's.

    Raises:
        InputError: Flags ask for what only PyTorch's model can.
    """
    for flag in ('tta', 'amp', 'compile'):
        if getattr(args, flag):
            raise InputError(f'--{flag}: {args.checkpoint} is an exported model, it runs as it is; leave out the flag')
    cfg.model = dict(
        type='ExportedDetector',
        model_file=args.checkpoint,
        data_preprocessor=cfg.model.data_preprocessor,
        classes=dataset_meta(cfg)['classes'],
    )
    # Those of EMA, attention maps and so on work on layers and weights.
    cfg.custom_hooks = []


def main() -> None:
    args = parse_args()
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        raise InputError(f'--out {args.out} must end in .pkl or .pickle')
    cfg = load_config(args)
    if is_main_process_of_node():
        check_work_dir(cfg)
        if args.out:
            check_writable_file(args.out, '--out', makes_folder=True)
    exported = is_exported(args.checkpoint)
    if not exported:
        cfg.load_from = args.checkpoint
        if args.tta:
            use_tta(cfg)
        checkpoint = load_checkpoint_file(args.checkpoint)
    if args.show or args.show_dir:
        cfg = trigger_visualization_hook(cfg, args)
    if args.amp:
        cfg.test_cfg.fp16 = True
    if not exported:
        options = {name: getattr(args, name) for name in ('fuse_conv_bn', 'channels_last', 'winograd', 'compile')}
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), dict(type='FastInferenceHook', **options)]

    contents = check_inputs(cfg, 'test') if is_main_process_of_node() else {}
    if exported:
        use_exported(cfg, args)
    runner = build_runner(cfg)
    if not exported:
        check_checkpoint_fits(checkpoint, args.checkpoint, runner.model)
    if args.out:
        runner.test_evaluator.metrics.append(DumpRLEResults(out_file_path=args.out))
    with torch.inference_mode(), hand_over(contents):
        runner.test()


if __name__ == '__main__':
    run_tool(main)
