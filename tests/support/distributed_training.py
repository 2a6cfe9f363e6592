"""Run on two processes: a training of a few weights, in which one process meets something bad."""

import os
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from torch import distributed as torch_dist

from mmdet_sag.engine.checkpoint_files import AtomicFileBackend
from mmdet_sag.engine.launch import run_tool
from support.tiny_training import HOOKS, FewWeights, few_weights_runner


class SeenByRank1(Hook):
    """Notes the images of rank 1, and makes the loss of its fifth iteration NaN."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == 4 and get_rank() == 1:
            images = [sample.img_path for sample in data_batch['data_samples']]
            runner.model.module.bad_image = images[0]
            Path(runner.work_dir, 'images').write_text(', '.join(images))


class FullDisk(Hook):
    """From the third iteration on there is no room."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == 2:
            AtomicFileBackend.put = FullDisk.put

    @staticmethod
    def put(*args) -> None:
        raise OSError(28, 'No space left on device')


def main() -> None:
    torch_dist.init_process_group('gloo')
    init_default_scope('mmdet')
    torch.manual_seed(0)
    work_dir = Path(sys.argv[1])
    wrapper_cfg = dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None)
    runner = few_weights_runner(
        work_dir,
        6,
        FewWeights(),
        launcher='pytorch',
        cfg=Config(dict(model_wrapper_cfg=wrapper_cfg)),
        optim_wrapper=dict(
            type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3), accumulative_counts=int(sys.argv[3])
        ),
        default_hooks=HOOKS,
        custom_hooks=[dict(nan=SeenByRank1, full=FullDisk)[sys.argv[2]](), dict(type='EMAHook', momentum=0.1)],
    )
    try:
        runner.train()
    except Exception as e:
        Path(work_dir, f'error_{os.environ["RANK"]}').write_text(str(e))
        raise


if __name__ == '__main__':
    run_tool(main)
