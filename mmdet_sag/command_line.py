"""The exit status and the error line of every command of this package."""

import argparse
import enum
import io
import os
import signal
import sys
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

    An :class:`InputError` and Ctrl-C are printed as one line, once on each machine.
    """
    warnings.filterwarnings('ignore', message='|'.join(_NOISE))
    message = ''
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files and classes may hold what the terminal cannot show.
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        status = main() or ExitStatus.DONE
    except InputError as error:
        message, status = f'error: {error}', ExitStatus.INPUT_ERROR
    except KeyboardInterrupt:
        message, status = '\nstopped by Ctrl-C', 128 + signal.SIGINT
    if message and is_main_process_of_node():
        print(message, file=sys.stderr)
    sys.exit(status)


def is_main_process_of_node() -> bool:
    """Return whether this is the first process of a job on its machine. The launch sets ``LOCAL_RANK``."""
    return os.environ.get('LOCAL_RANK', '0') == '0'
