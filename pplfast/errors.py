"""Errors that the user can act on."""


class UserError(Exception):
    """Bad input or a condition of the machine that the user can mend.

    The message is one line and names the file, the value and the remedy. The command line prints it without a
    traceback and exits with code 2; library callers catch it like any exception.
    """

    exit_code = 2
