"""Evaluate a checkpoint and draw its results, with the flags of MMDetection's ``test.py``.

Instead of a checkpoint, give a model that mmdet-sag export wrote to evaluate that: its folder, model.onnx, model.xml,
or model.pt, which is a program.
"""

import argparse
from pathlib import Path

import torch

# Before mmdet: in a clone that is not installed, this finds the operators that mmdet wants.
import mmdet_sag  # noqa: F401

# isort: split
from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmengine.logging import print_log

from mmdet_sag.checks import check_inputs, hand_over
from mmdet_sag.command_line import HelpFormatter, is_main_process_of_node
from mmdet_sag.deployment.exported_detector import use_exported_model
from mmdet_sag.deployment.formats import is_exported
from mmdet_sag.engine.checkpoint_files import check_checkpoint_fits, load_checkpoint_file
from mmdet_sag.engine.launch import add_arguments, build_runner, check_work_dir, load_config, run_tool
from mmdet_sag.engine.tta import use_tta
from mmdet_sag.errors import InputError
from mmdet_sag.evaluation import DumpRLEResults
from mmdet_sag.fileio import check_writable_file
from mmdet_sag.models.model_config import type_name
from mmdet_sag.visualization import picture_score_thr


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_arguments(parser)
    # After the config and before the options, as in MMDetection.
    parser.add_argument('checkpoint', help='checkpoint file, or exported model or its folder')
    parser.add_argument('--device', help='device of an exported model: cpu, gpu, or as its library names it')
    parser.add_argument('--out', help='file for the predictions, .pkl or .pickle')
    parser.add_argument('--show', action='store_true', help='show the results in a window')
    parser.add_argument(
        '--show-dir',
        help='folder for pictures of the results, in the folders of the images, inside <work dir>/<time stamp>',
    )
    parser.add_argument('--wait-time', type=float, default=2, help='seconds that --show shows a picture')
    parser.add_argument('--tta', action='store_true', help="test-time augmentation; the config's, or a flip")
    switch = argparse.BooleanOptionalAction
    parser.add_argument('--fuse-conv-bn', action=switch, default=True, help='fold batch norms into convs')
    parser.add_argument('--channels-last', action=switch, default=True, help='memory format of the convs')
    parser.add_argument('--winograd', action=switch, default=True, help='fewer multiplications in convs, on a CPU')
    parser.add_argument('--compile', action='store_true', help='torch.compile backbone, neck and box head')
    parser.add_argument('--amp', action='store_true', help='mixed precision: bfloat16 on a CPU, float16 on CUDA')
    return parser.parse_args()


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
    if exported:
        if args.checkpoint.endswith('.pt') or Path(args.checkpoint, 'model.pt').is_file():
            print_log(f'{args.checkpoint} is a TorchScript program, and is run: use only one that you made or trust')
        for flag in ('tta', 'amp', 'compile'):
            if getattr(args, flag):
                raise InputError(f'--{flag}: {args.checkpoint} is an exported model, which runs as it is; leave it out')
    elif args.device:
        raise InputError(
            f'--device {args.device}: is for exported models; a checkpoint runs on the GPU if there is one, and on the '
            'CPU after CUDA_VISIBLE_DEVICES=-1'
        )
    else:
        cfg.load_from = args.checkpoint
        if args.tta:
            use_tta(cfg)
        if args.amp:
            cfg.test_cfg.fp16 = True
        options = {name: getattr(args, name) for name in ('fuse_conv_bn', 'channels_last', 'winograd', 'compile')}
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), dict(type='mmdet.FastInferenceHook', **options)]
        checkpoint = load_checkpoint_file(args.checkpoint)
    if args.show or args.show_dir:
        cfg = trigger_visualization_hook(cfg, args)
        visualization = cfg.default_hooks.visualization
        if type_name(visualization) == 'SegVisualizationHook':
            # MMSegmentation's draws every 50th image by default, into a folder of its visualizer.
            visualization.interval = 1
            if visualization.pop('test_out_dir', None):
                cfg.visualizer.save_dir = args.show_dir
        elif 'score_thr' not in visualization:
            visualization.score_thr = picture_score_thr(args.checkpoint)
        if type_name(visualization) == 'DetVisualizationHook':
            visualization.type = 'FolderVisualizationHook'

    contents = check_inputs(cfg, 'test') if is_main_process_of_node() else {}
    if exported:
        use_exported_model(cfg, args.checkpoint, args.device or 'CPU')
    runner = build_runner(cfg)
    if not exported:
        check_checkpoint_fits(checkpoint, args.checkpoint, runner.model)
    if args.out:
        runner.test_evaluator.metrics.append(DumpRLEResults(out_file_path=args.out))
    with torch.inference_mode(), hand_over(contents):
        runner.test()


if __name__ == '__main__':
    run_tool(main)
