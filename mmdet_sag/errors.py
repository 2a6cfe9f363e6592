class InputError(ValueError):
    """Something the user gave cannot be used; whatever reads it may raise this.

    The message is one line that names the thing and the remedy; every command line prints it alone, without a stack
    trace, and exits with :attr:`mmdet_sag.command_line.ExitStatus.INPUT_ERROR`.
    """
