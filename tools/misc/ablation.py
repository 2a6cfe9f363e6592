"""Train variants of a CenterMask alike, each with several seeds, and print mean and standard deviation of their AP:
without attention, with attention of kernel 3 and 7, without MaskIoU, and in a Mask R-CNN of the same backbone.
Runs that are finished are not repeated.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.runner import Runner

from mmdet_sag.checks import check_inputs
from mmdet_sag.command_line import HelpFormatter, run_command
from mmdet_sag.engine.launch import ConfigOptions, build_runner, check_work_dir, parse_options, read_config
from mmdet_sag.errors import InputError
from mmdet_sag.fileio import atomic_write
from mmdet_sag.models.model_config import type_name, unfreeze_random_backbones

MASK_HEAD = 'model.roi_head.mask_head'
ATTENTION = {
    # With CenterMask's mask targets, as all of them.
    'fcn': {f'{MASK_HEAD}.type': 'BoxSupervisedFCNMaskHead'},
    'sag3': {f'{MASK_HEAD}.attention_kernel_size': 3},
    'sag7': {f'{MASK_HEAD}.attention_kernel_size': 7},
}
MASK_RCNN = 'mask-rcnn'
# By name: options that replace those of the config. Those whose name begins with Mask R-CNN's get its heads.
VARIANTS = {
    **{f'centermask-{name}': options for name, options in ATTENTION.items()},
    'centermask-sag3-no-maskiou': {**ATTENTION['sag3'], 'model.roi_head.mask_iou_head': None},
    **{f'{MASK_RCNN}-{name}': options for name, options in ATTENTION.items()},
}
COLUMNS = {'mask AP': 'segm_mAP', 'boundary AP': 'boundary_mAP', 'box AP': 'bbox_mAP'}
RESULT = 'result.json'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument('config', help='config of a CenterMask, such as centermask-lite_demo.py')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/ablation'), help='folder of all runs')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4], help='a run for each of them')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, default={}, help='for all: key=value')
    parser.add_argument(
        '--variant',
        dest='variants',
        nargs='+',
        action='append',
        metavar=('NAME', 'KEY=VALUE'),
        help=f'instead of all: one of {", ".join(VARIANTS)}, or another name with its options; may be repeated',
    )
    parser.add_argument('--table', action='store_true', help='train nothing, print the table of what is finished')
    return parser.parse_args()


def chosen_variants(given: list[list[str]] | None) -> dict[str, dict]:
    if given is None:
        return VARIANTS
    unknown = [name for name, *words in given if not words and name not in VARIANTS]
    if unknown:
        raise InputError(f'--variant {unknown[0]}: give its options KEY=VALUE, or choose from {", ".join(VARIANTS)}')
    return {name: parse_options(words) if words else VARIANTS[name] for name, *words in given}


def as_mask_rcnn(model: ConfigDict) -> ConfigDict:
    """The backbone, neck, mask head and number of RoIs of a CenterMask with MMDetection's other parts of Mask R-CNN."""
    rcnn = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py').model
    box_head, roi_head, width = model.bbox_head, model.roi_head, model.bbox_head.in_channels
    # Not by update(), which would merge the options of both.
    for part in ('data_preprocessor', 'backbone', 'neck'):
        rcnn[part] = model[part]
    rcnn.rpn_head.update(in_channels=width, feat_channels=box_head.feat_channels)
    # Anchors are as large as the objects of CenterMask's levels.
    scale = box_head.get('regress_ranges', [(-1, 64)])[0][1] / box_head.strides[0]
    rcnn.rpn_head.anchor_generator.update(strides=box_head.strides, scales=[scale])
    for part in ('bbox', 'mask'):
        extractor = rcnn.roi_head[f'{part}_roi_extractor']
        extractor.update(out_channels=width, featmap_strides=roi_head.mask_roi_extractor.featmap_strides)
    rcnn.roi_head.bbox_head.update(in_channels=width, num_classes=box_head.num_classes)
    if roi_head.mask_iou_head is not None:
        rcnn.roi_head.bbox_head.fc_out_channels = roi_head.mask_iou_head.get('fc_out_channels', 1024)
    rcnn.roi_head.mask_head = roi_head.mask_head
    rcnn.train_cfg.rcnn.sampler.num = model.train_cfg.rcnn.sampler.num
    # CenterMask's number of proposals is small, as its proposals have passed the NMS by class. For COCO, 1,000.
    for cfg in (rcnn.train_cfg.rpn_proposal, rcnn.test_cfg.rpn):
        cfg.max_per_img = 10 * model.train_cfg.proposal.max_per_img
    rcnn.test_cfg.rcnn.max_per_img = model.test_cfg.bbox_head.max_per_img
    return rcnn


def variant_config(args: argparse.Namespace, name: str, seed: int) -> Config:
    """The config of one run: it validates once, at its end, and keeps no checkpoints."""
    config = read_config(args.config)
    config.merge_from_dict(args.cfg_options)
    if type_name(config.model) != 'CenterMask':
        raise InputError(f"config {args.config} has a {type_name(config.model)}, and the variants are a CenterMask's")
    config.merge_from_dict(args.options_of[name])
    if name.startswith(MASK_RCNN):
        config.model = as_mask_rcnn(config.model)
    config.val_evaluator.update(type='UnroundedCocoMetric', metric=['bbox', 'segm', 'boundary'])
    config.train_cfg.val_interval = config.train_cfg.get('max_iters') or config.train_cfg.max_epochs
    config.train_cfg.pop('dynamic_intervals', None)
    config.default_hooks.checkpoint = dict(type='AtomicCheckpointHook', interval=-1, save_last=False)
    config.update(launcher='none', work_dir=str(args.work_dir / name / str(seed)), randomness=dict(seed=seed))
    # MMEngine takes equal names for the same run, and equal names of visualizers for the same folder.
    config.experiment_name = config.visualizer.name = f'{name}_{seed}'
    unfreeze_random_backbones(config)
    return config


def time_per_image(runner: Runner) -> float:
    """Median time of a validation image in milliseconds, without loading and evaluation."""
    times = []
    runner.model.eval()
    with torch.no_grad():
        for batch in runner.val_dataloader:
            start = time.perf_counter()
            runner.model.val_step(batch)
            times.append((time.perf_counter() - start) / len(batch['inputs']))
    return 1000 * statistics.median(times)


def run(config: Config) -> None:
    # Before parts of it are built, which changes it.
    text = settings(config)
    check_work_dir(config)
    check_inputs(config, 'train')
    start = time.perf_counter()
    runner = build_runner(config)
    runner.train()
    scalars = runner.message_hub.log_scalars
    result = {key: scalars[f'val/coco/{key}'].current() for key in COLUMNS.values()}
    result.update(minutes=(time.perf_counter() - start) / 60, ms_per_image=time_per_image(runner))
    result.update(parameters=sum(parameter.numel() for parameter in runner.model.parameters()), config=text)
    with atomic_write(Path(config.work_dir, RESULT), 'w') as file:
        json.dump(result, file, indent=1)


def settings(config: Config) -> str:
    return json.dumps({key: value for key, value in config.to_dict().items() if key != 'work_dir'}, default=str)


def finished(config: Config) -> dict | None:
    """The result of a run, if it is finished."""
    path = Path(config.work_dir, RESULT)
    if not path.is_file():
        return None
    result = json.loads(path.read_text())
    if result['config'] != settings(config):
        raise InputError(f'{path} is of other settings: give another --work-dir, or remove {path.parent}')
    return result


def table(args: argparse.Namespace) -> str:
    """Mean and standard deviation over the seeds that are finished, as a table in Markdown."""
    rows = [['variant', *COLUMNS, 'ms per image', 'parameters', 'seeds'], [':--', *['--:'] * (len(COLUMNS) + 3)]]
    for name in args.options_of:
        results = [finished(variant_config(args, name, seed)) for seed in args.seeds]
        results = [result for result in results if result is not None]
        if not results:
            continue
        cells = []
        for key in COLUMNS.values():
            values = [100 * result[key] for result in results]
            spread = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
            cells.append(f'{statistics.mean(values):.1f}{spread}')
        cells.append(f'{statistics.median(result["ms_per_image"] for result in results):.1f}')
        rows.append([name, *cells, f'{results[0]["parameters"]:,}', str(len(results))])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def main() -> None:
    args = parse_args()
    args.options_of = chosen_variants(args.variants)
    # Seed by seed: what is finished early compares all variants.
    for seed in args.seeds if not args.table else ():
        for name in args.options_of:
            config = variant_config(args, name, seed)
            if finished(config) is None:
                run(config)
    print(table(args))


if __name__ == '__main__':
    run_command(main)
