"""The one error that a user of nearzero is meant to see.

It lives apart because every layer raises it and the command line alone catches it: an `InputError` is
printed as one line and ends the program with exit code 2.
"""

import difflib
from collections.abc import Iterable

__all__ = ["InputError", "did_you_mean"]


class InputError(ValueError):
    """Something given from outside can't be used.

    The message is one line: what was wrong, what was seen, and what to do.
    """


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """Return the hint that something close to a name is known, for a message; empty if nothing is."""
    close = difflib.get_close_matches(str(given), known, n=1)
    return f"did you mean {close[0]!r}? " if close else ""
