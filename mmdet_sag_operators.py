"""Finds a module ``mmcv._ext`` made of torchvision's operators where mmcv comes without its compiled ones.

A module of its own, outside the package: ``mmdet_sag_operators.pth`` imports it at every start of Python, before
anything that mmcv, MMDetection or a user's script may import, so that all of them find the module, as do processes
that are spawned. It therefore imports nothing that the interpreter has not loaded by then. Importing ``mmdet_sag``
does the same for a clone that is not installed.
"""

import os
import sys

VARIABLE = 'MMDET_SAG_OPERATORS'
CHOICES = ('auto', 'mmcv', 'torchvision')
STAND_IN = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'mmdet_sag', 'operators', 'torchvision_ext.py')


def operators_choice() -> str:
    """Read ``MMDET_SAG_OPERATORS``: ``mmcv``, ``torchvision``, or ``auto`` (mmcv's if there are any).

    Raises:
        ImportError: It says something else. An error of imports, because that is when the choice is made.
    """
    choice = os.environ.get(VARIABLE) or 'auto'
    if choice not in CHOICES:
        raise ImportError(f'{VARIABLE}={choice} is not known: set it to {", ".join(CHOICES[:-1])} or {CHOICES[-1]}')
    return choice


class OperatorFinder:
    """Finds ``mmcv._ext`` beside this module, if ``choice`` is the one in force."""

    def __init__(self, choice: str) -> None:
        self.choice = choice

    def find_spec(self, fullname: str, path=None, target=None):
        """See :meth:`importlib.abc.MetaPathFinder.find_spec`."""
        if fullname != 'mmcv._ext' or operators_choice() != self.choice:
            return None
        from importlib.util import spec_from_file_location

        return spec_from_file_location(fullname, STAND_IN)


def is_stand_in(spec) -> bool:
    """Return whether a module specification is that of torchvision's operators."""
    return spec is not None and spec.origin == STAND_IN


def install() -> None:
    """Add the finders: one that comes before mmcv's own module and one that is asked when there is none."""
    if not any(isinstance(finder, OperatorFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, OperatorFinder('torchvision'))
        sys.meta_path.append(OperatorFinder('auto'))


install()
