class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names the thing and the remedy; the command-line tools print it alone, without a
    stack trace, and exit with status 1.
    """
