from typing import NamedTuple


class Choice(NamedTuple):
    """A thing that was chosen, for the user to read.

    Args:
        what: What was chosen.
        value: What it is now.
        why: The reason.
    """

    what: str
    value: str
    why: str
