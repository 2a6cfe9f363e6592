"""Flags, config and process group of the training and the test tool."""

import argparse
import ast
import datetime
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from mmdet.registry import RUNNERS, VISUALIZERS
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.dist import all_gather_object, barrier, init_dist, is_distributed
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing
from torch import distributed as torch_dist

from ..command_line import is_main_process_of_node, run_command
from ..errors import InputError
from ..fileio import check_writable_folder, is_remote
from ..models.model_config import class_of, type_name
from ..operators import operators_in_use
from ..visualization import DEFAULT_SCORE_THR

Result = TypeVar('Result')

# The environment variables of the launchers for RANK, WORLD_SIZE and LOCAL_RANK.
_RANKS = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}
# And for the number of machines.
_MACHINES = {'pytorch': 'GROUP_WORLD_SIZE', 'slurm': 'SLURM_NNODES', 'mpi': 'OMPI_MCA_orte_num_nodes'}


class ConfigOptions(DictAction):
    """``--cfg-options``: settings that replace those of the config.

    Values are parsed as by MMEngine's :class:`DictAction`. That one drops all spaces; here single values and the
    strings in Python lists, tuples and dicts keep theirs. Dicts may be written as in a config, ``dict(a=1)``.
    """

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: list, *args) -> None:
        try:
            options = parse_options(values)
        except InputError as e:
            raise argparse.ArgumentError(self, str(e)) from e
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest, None) or {}), **options})


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Read the words ``key=value`` of ``--cfg-options``, see :class:`ConfigOptions`."""
    options = {}
    for word in words:
        try:
            key, text = word.split('=', maxsplit=1)
            options[key] = _parse_option(text)
        # MMEngine raises AssertionError or RecursionError on values that it cannot parse.
        except (AssertionError, RecursionError, ValueError) as e:
            raise InputError(
                f'cannot read {word}: write key=value, lists as key="[a,b]", names with spaces in quotes of their '
                "own, key=\"['a b','c']\", and dicts as key=\"dict(a='b')\"; the rest belongs into a config"
            ) from e
    return options


def _parse_option(text: str) -> Any:
    if text.startswith(('(', '[', '{', 'dict(')):
        try:
            value = ast.literal_eval(_DictCalls().visit(ast.parse(text, mode='eval')))
        except (SyntaxError, ValueError):
            value = None
        if isinstance(value, (list, tuple, dict)):
            return value
    # Of a folder such as 'photos (1)', MMEngine would drop the space.
    elif ',' not in text and text.strip('\'" ')[:1] not in ('(', '['):
        return DictAction._parse_int_float_bool(text.strip('\'"'))
    if re.search(r'[^\s,()\[\]]\s+[^\s,()\[\]]', text):
        raise ValueError('MMEngine would drop these spaces')
    return DictAction._parse_iterable(text)


class _DictCalls(ast.NodeTransformer):
    """Makes literals of ``dict(a=1)``."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Name) or node.func.id != 'dict' or node.args:
            return node
        keys: list[ast.expr | None] = [ast.Constant(keyword.arg) for keyword in node.keywords]
        return ast.Dict(keys, [keyword.value for keyword in node.keywords])


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


def read_config(path: str) -> Config:
    """Read a config file, or a config of the package by its name.

    Raises:
        InputError: It does not exist, or cannot be read.
    """
    if not Path(path).is_file():
        # It imports MMDetection's registries, which takes seconds.
        from ..checkpoints.zoo import find_config

        path = str(find_config(path))
    try:
        return Config.fromfile(path)
    except InputError:
        raise
    # A config is a program, and may raise anything.
    except Exception as e:
        raise InputError(f'config {path} cannot be read, {_one_line(e)}') from e


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and apply the flags of :func:`add_arguments`. ``args.config`` becomes the path of its file."""
    _set_local_rank(args)
    cfg = read_config(args.config)
    args.config = cfg.filename
    try:
        cfg.merge_from_dict(args.cfg_options or {})
    except Exception as e:
        raise InputError(f'--cfg-options do not fit config {args.config}, {_one_line(e)}') from e
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs', Path(args.config).stem))
    return cfg


def check_work_dir(cfg: Config) -> None:
    """Check that logs and checkpoints can be written into the folders of a config."""
    check_writable_folder(cfg.work_dir, '--work-dir')
    checkpoint = cfg.get('default_hooks', {}).get('checkpoint') or {}
    if checkpoint.get('out_dir') and not is_remote(checkpoint['out_dir'], checkpoint.get('backend_args')):
        check_writable_folder(checkpoint['out_dir'], 'default_hooks.checkpoint.out_dir')


def init_processes(cfg: Config) -> None:
    """Create the process group of a run with a launcher, for its device. The runner uses it.

    On a GPU, a strategy (``runner_type='FlexibleRunner'``) creates its own.
    """
    if cfg.launcher == 'none':
        return
    try:
        if get_device() == 'cpu':
            if not is_distributed():
                _check_host_name(cfg.launcher)
            _use_gloo(cfg)
        elif 'runner_type' not in cfg and not is_distributed():
            env_cfg = cfg.get('env_cfg', {})
            # Before MMEngine chooses another way to start workers.
            set_multi_processing(**env_cfg.get('mp_cfg', {}), distributed=True)
            init_dist(cfg.launcher, **env_cfg.get('dist_cfg', {}))
    except RuntimeError as e:
        if 'EADDRINUSE' not in str(e):
            raise
        port = os.environ.get('MASTER_PORT', '29500')
        raise InputError(f'port {port} is in use on this machine: choose another, MASTER_PORT={int(port) + 1}') from e


def in_all_processes(function: Callable[[], Result], exchange: Callable[[Any], list] = all_gather_object) -> Result:
    """Call a function in all processes. If it fails in one, the first error is raised in all.

    Only :class:`InputError` and ``OSError`` are shared, by ``exchange``, which returns what each process has given it.
    """
    error = None
    try:
        result = function()
    except (InputError, OSError) as e:
        error = e
    for failure in exchange(error):
        if failure is not None:
            raise failure
    return result


def build_runner(cfg: Config) -> Runner:
    """Build the runner of a config, with :func:`init_processes`. The log names the operators in use."""
    setup_cache_size_limit_of_dynamo()
    if cfg.get('randomness', {}).get('deterministic'):
        # Without it, PyTorch refuses cuBLAS's products.
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    if cfg.get('env_cfg', {}).get('tf32'):
        torch.set_float32_matmul_precision('high')
    if get_device() == 'cuda':
        _copy_without_waiting(cfg)
    init_processes(cfg)
    visualizer = cfg.get('visualizer') or {}
    if class_of(visualizer, VISUALIZERS) is DetLocalVisualizer:
        visualizer['type'] = 'InstanceLocalVisualizer'
    visualization = cfg.get('default_hooks', {}).get('visualization') or {}
    if type_name(visualization) == 'DetVisualizationHook':
        visualization.setdefault('score_thr', DEFAULT_SCORE_THR)
    formatted = _FormattedOnce()
    vars(formatted).update(vars(cfg))
    runner = RUNNERS.build(formatted) if 'runner_type' in cfg else Runner.from_cfg(formatted)
    runner.logger.info(f'Operators of mmcv.ops: {operators_in_use()}')
    return runner


class _FormattedOnce(Config):
    """A config that keeps its text: MMEngine asks five times before the first step, half a second each."""

    @property
    def pretty_text(self) -> str:
        content = repr(self)
        known = vars(self).get('_formatted')
        if known is None or known[0] != content:
            known = vars(self)['_formatted'] = content, super().pretty_text
        return known[1]


def _copy_without_waiting(cfg: Config) -> None:
    """Let images be copied to a GPU behind its work, from pinned memory."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if isinstance(cfg.get(name), dict):
            cfg[name].setdefault('pin_memory', True)
    preprocessor = cfg.model.get('data_preprocessor')
    while isinstance(preprocessor, dict) and 'data_preprocessor' in preprocessor:
        preprocessor = preprocessor.data_preprocessor
    if isinstance(preprocessor, dict):
        preprocessor.setdefault('non_blocking', True)


def run_tool(main: Callable[[], None]) -> NoReturn:
    """Run a tool like :func:`run_command`, and end its process group before the process exits.

    Otherwise the process may abort while threads of gloo still run.
    """

    def run() -> None:
        complete = False
        try:
            main()
            barrier()
            complete = True
        except SystemExit:
            # From PreemptionHook, which has waited for the other processes.
            complete = True
            raise
        finally:
            # Backends other than gloo may wait for processes that failed elsewhere or go on.
            if is_distributed() and (complete or torch_dist.get_backend() == 'gloo'):
                torch_dist.destroy_process_group()

    run_command(run)


def _set_local_rank(args: argparse.Namespace) -> None:
    """Set ``LOCAL_RANK`` as the launcher does. Variables of a launcher that is not in use mean nothing."""
    if args.launcher == 'none':
        os.environ['LOCAL_RANK'] = '0'
        return
    if args.launcher == 'pytorch':
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    missing = [name for name in _RANKS[args.launcher] if name not in os.environ]
    if missing:
        starter = dict(pytorch='torchrun', slurm='srun', mpi='mpirun')[args.launcher]
        raise InputError(f'--launcher {args.launcher} needs {", ".join(missing)}: start it with {starter}')
    os.environ['LOCAL_RANK'] = os.environ[_RANKS[args.launcher][2]]


def _one_line(error: Exception) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())}'


def _check_host_name(launcher: str) -> None:
    """Warn if gloo would take an address that other machines cannot reach."""
    several = int(os.environ.get(_MACHINES[launcher], 1)) > 1
    if not several or 'GLOO_SOCKET_IFNAME' in os.environ or not is_main_process_of_node():
        return
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        # gloo then takes the loopback address too.
        address = 'unknown'
    if address == 'unknown' or address.startswith('127.'):
        print(
            f'warning: the address of {name} is {address} here, and other machines cannot reach that: if the job does '
            'not begin, set GLOO_SOCKET_IFNAME to the network interface on each machine (ip -brief address), or mend '
            '/etc/hosts',
            file=sys.stderr,
        )


def _use_gloo(cfg: Config) -> None:
    """Create a process group for the CPU. MMEngine would call CUDA, and pass the index of a GPU to DDP."""
    env = os.environ
    env.update({name: env[theirs] for name, theirs in zip(_RANKS['pytorch'], _RANKS[cfg.launcher])})
    if 'MASTER_ADDR' not in env and cfg.launcher == 'slurm':
        command = ['scontrol', 'show', 'hostname', env['SLURM_NODELIST']]
        env['MASTER_ADDR'] = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0]
    elif 'MASTER_ADDR' not in env and cfg.launcher == 'mpi':
        raise InputError('set the environment variable MASTER_ADDR to the host name of rank 0')
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
