"""The one error that a user of nearzero is meant to see.

It lives apart because every layer raises it and the command line alone catches it: an `InputError` is
printed as one line and ends the program with exit code 2.
"""

__all__ = ["InputError"]


class InputError(ValueError):
    """Something given from outside can't be used.

    The message is one line: what was wrong, what was seen, and what to do.
    """
