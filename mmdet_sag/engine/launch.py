"""What the training and the test tool share: their flags, the config, the process group and one-line errors."""

import argparse
import ast
import datetime
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmdet.registry import RUNNERS
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.dist import barrier, is_distributed
from mmengine.runner import Runner
from torch import distributed as torch_dist

from ..command_line import exit_interrupted, exit_with_input_error
from ..errors import InputError
from ..fileio import check_writable_folder, is_remote
from ..operators import operators_in_use


class ConfigOptions(DictAction):
    """``--cfg-options``: settings that replace those of the config.

    Values are read as MMEngine's :class:`DictAction` reads them, which drops all spaces, except that lists, tuples and
    dicts of Python keep those in their strings, and single values keep theirs.
    """

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: list, *args) -> None:
        options = dict(getattr(namespace, self.dest, None) or {})
        for word in values:
            try:
                key, text = word.split('=', maxsplit=1)
                options[key] = _option_value(text)
            # MMEngine asserts, or recurses without end, on what it cannot take apart.
            except (AssertionError, RecursionError, ValueError) as e:
                raise argparse.ArgumentError(
                    self,
                    f'cannot read {word}: write key=value, lists as key="[a,b]", and names with spaces in quotes of '
                    "their own, key=\"['a b','c']\"; other dicts than key=\"{'a': 1}\" belong into a config",
                ) from e
        setattr(namespace, self.dest, options)


def _option_value(text: str) -> Any:
    if text[:1] in ('(', '[', '{'):
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = None
        if isinstance(value, (list, tuple, dict)):
            return value
    elif not set(text) & set(',()[]'):
        return DictAction._parse_int_float_bool(text.strip('\'"'))
    if re.search(r'[^\s,()\[\]]\s+[^\s,()\[\]]', text):
        raise ValueError('spaces that would be lost')
    return DictAction._parse_iterable(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that MMDetection's ``train.py`` and ``test.py`` have in common."""
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--work-dir', help="folder of logs and checkpoints; default: the config's, or work_dirs/<name of the config>"
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        help='settings that replace those of the config, e.g. train_cfg.max_iters=1000 model.backbone.arch=V-39; '
        'lists as key="[a,b]" or key=a,b; names with spaces as key="[\'a b\',\'c\']"',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by some launchers')


def load_config(args: argparse.Namespace) -> Config:
    """Read the config file and apply the flags of :func:`add_arguments`.

    Raises:
        InputError: The file or an option of ``--cfg-options`` cannot be used.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if not Path(args.config).is_file():
        raise InputError(f'config {args.config} does not exist, check the path')
    try:
        cfg = Config.fromfile(args.config)
    # A config is a program: it can fail in every way.
    except Exception as e:
        raise InputError(f'config {args.config} cannot be read, {_one_line(e)}') from e
    try:
        cfg.merge_from_dict(args.cfg_options or {})
    except Exception as e:
        raise InputError(f'--cfg-options do not fit config {args.config}, {_one_line(e)}') from e
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(args.config).stem))
    return cfg


def check_work_dir(cfg: Config) -> None:
    """Check that logs and checkpoints can be written into the folders of a config.

    Raises:
        InputError: One of them cannot be written to.
    """
    check_writable_folder(cfg.work_dir, '--work-dir')
    checkpoint = cfg.get('default_hooks', {}).get('checkpoint') or {}
    if checkpoint.get('out_dir') and not is_remote(checkpoint['out_dir'], checkpoint.get('backend_args')):
        check_writable_folder(checkpoint['out_dir'], 'default_hooks.checkpoint.out_dir')


def build_runner(cfg: Config) -> Runner:
    """Build the runner of a config, with a process group that fits the machine; its log names the operators."""
    setup_cache_size_limit_of_dynamo()
    if cfg.launcher != 'none' and get_device() == 'cpu':
        _use_gloo(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.logger.info(f'Operators of mmcv.ops: {operators_in_use()}')
    return runner


def run_tool(main: Callable[[], None]) -> None:
    """Run a tool: an :class:`InputError` is printed as one line, and the process exits with status 2."""
    try:
        main()
        barrier()
        _end_process_group()
    except InputError as e:
        _end_process_group(failed=True)
        exit_with_input_error(e)
    except KeyboardInterrupt:
        _end_process_group(failed=True)
        exit_interrupted()
    except SystemExit:
        # PreemptionHook's: it has waited for the other processes.
        _end_process_group()
        raise


def _end_process_group(failed: bool = False) -> None:
    """End the process group before the process, which may abort while gloo's threads still run."""
    # Other groups may wait for processes that failed elsewhere, or went on.
    if is_distributed() and (not failed or torch_dist.get_backend() == 'gloo'):
        torch_dist.destroy_process_group()


def _one_line(error: Exception) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())}'


def _use_gloo(cfg: Config) -> None:
    """Make a process group without an accelerator: MMEngine would call CUDA, and give DDP the number of a GPU."""
    env = os.environ
    if cfg.launcher == 'slurm':
        env.update(RANK=env['SLURM_PROCID'], WORLD_SIZE=env['SLURM_NTASKS'], LOCAL_RANK=env['SLURM_LOCALID'])
        if 'MASTER_ADDR' not in env:
            hosts = subprocess.run(
                ['scontrol', 'show', 'hostname', env['SLURM_NODELIST']], check=True, capture_output=True, text=True
            )
            env['MASTER_ADDR'] = hosts.stdout.split()[0]
    elif cfg.launcher == 'mpi':
        env.update(
            RANK=env['OMPI_COMM_WORLD_RANK'],
            WORLD_SIZE=env['OMPI_COMM_WORLD_SIZE'],
            LOCAL_RANK=env['OMPI_COMM_WORLD_LOCAL_RANK'],
        )
        if 'MASTER_ADDR' not in env:
            raise InputError('set the environment variable MASTER_ADDR to the name of the host of rank 0')
    env.setdefault('MASTER_PORT', '29500')
    if not is_distributed():
        timeout = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout', 1800)
        torch_dist.init_process_group('gloo', timeout=datetime.timedelta(seconds=timeout))
    defaults = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    cfg.model_wrapper_cfg = {**defaults, **cfg.get('model_wrapper_cfg', {}), 'device_ids': None}
