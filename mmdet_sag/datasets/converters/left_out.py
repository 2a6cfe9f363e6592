"""Entries of a source that cannot be used, while the others are converted."""

from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import InputError

NOT_LEARNT = 'not learnt'


class EntryError(InputError):
    """One image or object of a source cannot be used. A reader leaves it out and goes on.

    Args:
        place: Where it is: a file, or a line or entry of one.
        reason: What is wrong, equal for equal mistakes.
        remedy: What the user can do.
        detail: What differs between equal mistakes.
    """

    def __init__(self, place: str, reason: str, remedy: str, detail: str = '') -> None:
        super().__init__(f'{place}: {reason}{f" ({detail})" if detail else ""}: {remedy}')
        self.place, self.reason = place, reason


class LeftOut(dict[str, list[EntryError]]):
    """What a reader left out: errors by kind.

    Broken are ``'images'``, ``'objects'`` and ``'polygons'`` of objects that keep others. :data:`NOT_LEARNT` is what
    may be meant so: images without labels, and shapes without area.
    """

    def add(self, kind: str, place: str, reason: str, remedy: str = 'correct or delete it') -> None:
        """Count something; the arguments are those of :class:`EntryError`."""
        self.setdefault(kind, []).append(EntryError(place, reason, remedy))

    @contextmanager
    def collect(self, kind: str) -> Iterator[None]:
        """Keep an :class:`EntryError` of the block, and go on after it."""
        try:
            yield
        except EntryError as error:
            self.setdefault(kind, []).append(error)
