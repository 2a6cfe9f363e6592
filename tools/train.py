"""Train a detector from a config, with the flags of MMDetection's ``train.py``."""

import argparse
import os

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import all_gather_object, broadcast_object_list, get_rank

from mmdet_sag.checks import check_inputs, hand_over
from mmdet_sag.command_line import HelpFormatter, is_main_process_of_node
from mmdet_sag.engine.checkpoint_files import (
    load_checkpoint_file,
    newest_checkpoint,
    note_earlier_run,
    note_finished_training,
)
from mmdet_sag.engine.launch import (
    add_arguments,
    build_runner,
    check_work_dir,
    in_all_processes,
    init_processes,
    load_config,
    read_config,
    run_tool,
)
from mmdet_sag.errors import InputError
from mmdet_sag.models.model_config import unfreeze_random_backbones


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_arguments(parser)
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    parser.add_argument('--compile', action='store_true', help='torch.compile backbone, neck and box head')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate by the batch size of all processes over the config's",
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='checkpoint to continue from; without a value: the newest complete one in the work folder, if any',
    )
    return parser.parse_args()


def choose_checkpoint(resume: str | None, cfg: Config) -> str | None:
    """Choose the checkpoint to resume from, in all processes that of rank 0."""
    # torchrun starts the processes again after a crash. This run may have saved something since it began.
    restarted = max(all_gather_object(int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)))) > 0
    checkpoint_hook = cfg.get('default_hooks', {}).get('checkpoint')

    def choose() -> str | None:
        if get_rank() != 0:
            return None
        newest = newest_checkpoint(cfg.work_dir, checkpoint_hook) if restarted or resume == 'auto' else None
        if newest is None and resume is None:
            note_earlier_run(cfg.work_dir, checkpoint_hook)
        return newest or (None if resume == 'auto' else resume)

    chosen = [in_all_processes(choose)]
    broadcast_object_list(chosen)
    return chosen[0]


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    # A launcher may set LOCAL_RANK in another way later.
    checks = is_main_process_of_node()
    if checks:
        check_work_dir(cfg)
    if args.amp:
        if get_device() == 'cpu':
            raise InputError('--amp needs a GPU, NPU or MLU, and none was found; leave it out to train on the CPU')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.compile:
        if cfg.get('compile'):
            raise InputError('--compile: the config compiles the whole model (compile); leave out one of both')
        cfg.setdefault('default_hooks', {})['fast_training'] = dict(type='FastTrainingHook', compile=True)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise InputError('--auto-scale-lr needs auto_scale_lr = dict(base_batch_size=...) in the config')
        cfg.auto_scale_lr.enable = True
    by_config = cfg.get('load_from') or 'auto' if cfg.get('resume') else None
    if cfg.get('resume') and cfg.get('load_from'):
        # A checkpoint to continue from; what its training began with, if anything, the config names.
        cfg.load_from = read_config(args.config).get('load_from')
    unfreeze_random_backbones(cfg)
    init_processes(cfg)
    resume_from = choose_checkpoint(args.resume or by_config, cfg)
    cfg.resume = resume_from is not None
    if cfg.resume:
        cfg.load_from = resume_from
        # Report a mistake before the checks; the tensors are not kept.
        checkpoint = in_all_processes(lambda: load_checkpoint_file(resume_from, mmap=True))
        note_finished_training(checkpoint, resume_from, cfg.get('train_cfg') or {})

    contents = in_all_processes(lambda: check_inputs(cfg, 'train') if checks else {})
    runner = build_runner(cfg)
    with hand_over(contents):
        runner.train()


if __name__ == '__main__':
    run_tool(main)
