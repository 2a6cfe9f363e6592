"""How every command line of this package ends."""

import enum
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from .errors import InputError


class ExitStatus(enum.IntEnum):
    """What the exit status of a command says.

    Beyond these there are 1 with a stack trace for a defect of the program, and 128 + the number of the signal that
    ended a command early.
    """

    DONE = 0
    # Of a command that checks: it did so, and something is wrong.
    PROBLEMS_FOUND = 1
    # What was given cannot be used; argparse exits with it too.
    INPUT_ERROR = 2


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command and exit; an :class:`InputError` is printed as one line.

    Args:
        main: The command. It returns its exit status, or None when it is done.
    """
    try:
        status = main()
    except InputError as error:
        exit_with_input_error(error)
    except KeyboardInterrupt:
        exit_interrupted()
    sys.exit(ExitStatus.DONE if status is None else status)


def exit_with_input_error(error: InputError) -> NoReturn:
    """Print one line, once on each machine, and exit."""
    if is_main_process_of_node():
        print(f'error: {error}', file=sys.stderr)
    sys.exit(ExitStatus.INPUT_ERROR)


def exit_interrupted() -> NoReturn:
    """Print one line after Ctrl-C, once on each machine, and exit."""
    if is_main_process_of_node():
        print('\nstopped by Ctrl-C', file=sys.stderr)
    sys.exit(128 + signal.SIGINT)


def is_main_process_of_node() -> bool:
    """Whether this is the first process of a job on its machine, whatever launched it."""
    names = ('LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK')
    return all(os.environ.get(name, '0') == '0' for name in names)
