import pickle
from collections import OrderedDict
from collections.abc import Callable

from .allowed_calls import (
    ALLOWED_CALLS,
    KEYS,
    NotAllowed,
    SavedArray,
    SavedDtype,
    SavedHistory,
    encode_latin1,
    ordered_dict,
)

_CALLS = {**ALLOWED_CALLS, 'collections.OrderedDict': ordered_dict, '_codecs.encode': encode_latin1}
_STATEFUL = (SavedArray, SavedDtype, SavedHistory)
# Sets, other ways to make objects, extensions registered in the process, and objects outside of the file.
_REFUSED = tuple(
    b''.join(
        (
            pickle.INST,
            pickle.OBJ,
            pickle.NEWOBJ_EX,
            pickle.EXT1,
            pickle.EXT2,
            pickle.EXT4,
            pickle.PERSID,
            pickle.BINPERSID,
            pickle.EMPTY_SET,
            pickle.ADDITEMS,
            pickle.FROZENSET,
        )
    )
)


class ListedUnpickler(pickle._Unpickler):
    """Reads a pickle that may call what is on the list, and nothing else.

    Python's own unpickler checks names alone: what a name has led to may then be called with anything, changed, or
    given another state. It is the one written in Python, because the other one takes memory for what a file merely
    announces.

    Raises:
        NotAllowed: The file wants something else.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Callable:
        """Find what a name stands for."""
        try:
            return _CALLS[f'{module}.{name}']
        except KeyError:
            raise NotAllowed(f'{module}.{name}') from None

    def load_reduce(self) -> None:
        """Call a function."""
        if not any(self.stack[-2] is call for call in _CALLS.values()):
            raise NotAllowed('to call what is no function of the list')
        super().load_reduce()

    def load_newobj(self) -> None:
        """Make an object without calling its class."""
        if self.stack[-2] is not SavedHistory or self.stack[-1] != ():
            raise NotAllowed('a new object')
        super().load_newobj()

    def load_build(self) -> None:
        """Give an object its state."""
        inst, state = self.stack[-2:]
        if type(inst) is OrderedDict:
            # PyTorch keeps the versions of modules there.
            if type(state) is not dict or any(type(key) is not str for key in state):
                raise NotAllowed('to change an OrderedDict')
        elif type(inst) not in _STATEFUL:
            raise NotAllowed('to change an object')
        super().load_build()

    def load_setitem(self) -> None:
        """Put one value into a dict."""
        self._check_items(self.stack[-3], self.stack[-2:])
        super().load_setitem()

    def load_setitems(self) -> None:
        """Put values into a dict."""
        self._check_items(self.metastack[-1][-1], self.stack)
        super().load_setitems()

    def load_dict(self) -> None:
        """Make a dict."""
        self._check_items({}, self.stack)
        super().load_dict()

    def load_append(self) -> None:
        """Put one value into a list."""
        self._check_list(self.stack[-2])
        super().load_append()

    def load_appends(self) -> None:
        """Put values into a list."""
        self._check_list(self.metastack[-1][-1])
        super().load_appends()

    def load_refused(self) -> None:
        """Refuse what no file of weights needs."""
        raise NotAllowed('an object that no file of weights holds')

    @staticmethod
    def _check_items(target: object, items: list) -> None:
        if type(target) not in (dict, OrderedDict) or any(type(key) not in KEYS for key in items[::2]):
            raise NotAllowed('a dict of other things than names')

    @staticmethod
    def _check_list(target: object) -> None:
        if type(target) is not list:
            raise NotAllowed('to change an object')

    dispatch.update(
        {
            pickle.REDUCE[0]: load_reduce,
            pickle.NEWOBJ[0]: load_newobj,
            pickle.BUILD[0]: load_build,
            pickle.SETITEM[0]: load_setitem,
            pickle.SETITEMS[0]: load_setitems,
            pickle.DICT[0]: load_dict,
            pickle.APPEND[0]: load_append,
            pickle.APPENDS[0]: load_appends,
            **dict.fromkeys(_REFUSED, load_refused),
        }
    )
