"""The exit status and the error line of every command of this package."""

import argparse
import enum
import inspect
import io
import os
import re
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn

from .errors import InputError

# Warnings of the packages beneath about each other, where no user can change anything.
_NOISE = (
    'pkg_resources is deprecated',
    '`torch.cuda.amp.autocast',
    'torch.meshgrid: in an upcoming release',
    "Failed to add <class 'mmengine.visualization.vis_backend.LocalVisBackend'>",
)


class ExitStatus(enum.IntEnum):
    """Exit status of a command.

    A bug in the program exits with 1 and a stack trace, and a signal with 128 + its number.
    """

    DONE = 0
    # A check completed and found problems.
    PROBLEMS_FOUND = 1
    # The input cannot be used. argparse uses this status too.
    INPUT_ERROR = 2


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of a description, and adds the default values that are not said yet."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        said = action.default is None or action.default is False or action.default == [] or 'default' in action.help
        return action.help if said else super()._get_help_string(action)


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command and exit with the status that it returns, or None for success.

    An :class:`InputError`, a part of a config that cannot be built and Ctrl-C are printed as one line, once on each
    machine.
    """
    warnings.filterwarnings('ignore', message='|'.join(_NOISE))
    message = ''
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files and classes may hold what the terminal cannot show.
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        status = main() or ExitStatus.DONE
        print(end='', flush=True)
    except InputError as error:
        message, status = f'error: {error}', ExitStatus.INPUT_ERROR
    except (TypeError, KeyError) as error:
        problem = _config_problem(error)
        if not problem:
            raise
        message, status = f'error: {problem}', ExitStatus.INPUT_ERROR
    except KeyboardInterrupt:
        message, status = '\nstopped by Ctrl-C', 128 + signal.SIGINT
    except BrokenPipeError:
        if not _reader_has_left():
            raise
        status = 128 + signal.SIGPIPE
    if message and is_main_process_of_node():
        print(message, file=sys.stderr)
    sys.exit(status)


def _reader_has_left() -> bool:
    """Whether standard output is a pipe that nothing reads any more, as that to ``head``: what is left is dropped."""
    if not hasattr(select, 'poll'):
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    # Python flushes once more when it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _config_problem(error: Exception) -> str:
    """What is wrong with a part of a config that MMEngine could not build; empty if that is not the error's cause."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    builds = [frame.f_locals for frame in frames if frame.f_code.co_name == 'build_from_cfg']
    if not builds or 'obj_type' not in builds[-1]:
        return ''
    part = builds[-1]
    cls = part.get('obj_cls')
    if cls is None:
        return (
            f"in the config, the type '{part['obj_type']}' is in no registry of a '{part['registry'].name}': check its "
            'spelling, or name its module in custom_imports'
        )
    unknown = re.search(r"got an unexpected keyword argument '(\w+)'", str(error))
    if unknown and unknown[1] in part['args']:
        return f"in the config, {cls.__name__} has no option '{unknown[1]}'; its options are {', '.join(_options(cls))}"
    missing = re.search(r'missing \d+ required .*', str(error))
    # Otherwise a call inside the part lacks it.
    is_direct = frames[-1].f_code.co_name == 'build_from_cfg'
    return f'in the config, {cls.__name__} is {missing[0]}' if missing and is_direct else ''


def _options(cls: Callable) -> list[str]:
    """Names of the arguments of a class, with those that it passes on to its bases."""
    names: dict[str, None] = {}
    for function in [base.__init__ for base in inspect.getmro(cls)] if inspect.isclass(cls) else [cls]:
        parameters = inspect.signature(function).parameters.values()
        names.update(
            dict.fromkeys(each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD))
        )
        if all(each.kind is not each.VAR_KEYWORD for each in parameters):
            break
    return [name for name in names if name != 'self']


def is_main_process_of_node() -> bool:
    """Return whether this is the first process of a job on its machine. The launch sets ``LOCAL_RANK``."""
    return os.environ.get('LOCAL_RANK', '0') == '0'
