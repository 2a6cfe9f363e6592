"""Pickles of NumPy arrays, as Detectron2's model zoo has them."""

import functools
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmdet_sag.checkpoints.allowed_calls import ARRAY_CALLS, NotAllowed, SavedArray, SavedDtype

# Types of the keys of a dict: Python crashes on the hash of deeply nested tuples.
_KEYS = (str, bytes, int, float, bool, type(None))


def read_pickle(path: Path) -> Any:
    """Read a pickle that holds arrays, numbers, texts and containers.

    Raises:
        NotAllowed: The file wants something else. Any other exception means that it is damaged.
    """
    with path.open('rb') as file:
        # latin1: the texts and arrays of Python 2's pickles.
        return _ArrayUnpickler(file, encoding='latin1').load()


def _ordered_dict(items: list | tuple = ()) -> OrderedDict:
    if type(items) not in (list, tuple) or not all(
        type(item) in (list, tuple) and len(item) == 2 and type(item[0]) in _KEYS for item in items
    ):
        raise NotAllowed('an OrderedDict of other things than names')
    return OrderedDict(items)


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Stand in for ``_codecs.encode``, by which pickles write bytes."""
    if type(text) is not str or type(encoding) is not str or encoding not in ('latin1', 'latin-1'):
        raise NotAllowed('other codecs than latin1')
    return text.encode('latin1')


_CALLS: dict[str, Callable] = {
    **ARRAY_CALLS,
    'collections.OrderedDict': _ordered_dict,
    '_codecs.encode': _encode_latin1,
}


class _ArrayUnpickler(pickle._Unpickler):
    """Calls what is in the list, and nothing else.

    ``find_class`` alone does not limit what is called or changed later, so the steps of a pickle are checked too. The
    base class is the unpickler in Python: the one in C allocates whatever memory a damaged file announces.
    """

    stack: list
    metastack: list[list]

    def find_class(self, module: str, name: str) -> Callable:
        try:
            return _CALLS[f'{module}.{name}']
        except KeyError:
            raise NotAllowed(f'{module}.{name}') from None

    def checked_step(self, code: bytes) -> None:
        if not _is_allowed(code, self.stack, self.metastack):
            raise NotAllowed('a step that no file of arrays needs')
        step: Callable = pickle._Unpickler.dispatch[code[0]]
        step(self)


def _is_allowed(code: bytes, stack: list, outer: list[list]) -> bool:
    if code == pickle.REDUCE:
        return any(stack[-2] is call for call in _CALLS.values())
    if code == pickle.BUILD:
        owner, state = stack[-2:]
        # PyTorch keeps the versions of modules in the attributes of an OrderedDict.
        is_plain = type(state) is dict and all(type(key) is str for key in state)
        return type(owner) in (SavedArray, SavedDtype) or (type(owner) is OrderedDict and is_plain)
    if code in (pickle.APPEND, pickle.APPENDS):
        return type(stack[-2] if code == pickle.APPEND else outer[-1][-1]) is list
    if code in (pickle.SETITEM, pickle.SETITEMS, pickle.DICT):
        target = stack[-3] if code == pickle.SETITEM else outer[-1][-1] if code == pickle.SETITEMS else {}
        keys = stack[-2:-1] if code == pickle.SETITEM else stack[::2]
        return type(target) in (dict, OrderedDict) and all(type(key) in _KEYS for key in keys)
    # Other ways to make objects, sets, and objects outside of the file.
    return False


_CHECKED = (
    *(pickle.REDUCE, pickle.BUILD, pickle.APPEND, pickle.APPENDS, pickle.SETITEM, pickle.SETITEMS, pickle.DICT),
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET),
    *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.BINPERSID),
)
_ArrayUnpickler.dispatch = {
    **pickle._Unpickler.dispatch,
    **{code[0]: functools.partial(_ArrayUnpickler.checked_step, code=code) for code in _CHECKED},
}
