"""The one exception that nearzero raises for wrong input, and hints for misspelt names.

Every package raises `InputError`, so it is defined apart from all of them. Only the command line catches it:
it prints the message as one line and ends the program with exit code 2.
"""

import difflib
from collections.abc import Collection, Iterable

__all__ = ["InputError", "check_choice", "did_you_mean"]


class InputError(ValueError):
    """An error in something given from outside: an argument, a file, a setting.

    The message is one line: what was wrong, what was seen, and what to do.

    Example:
        >>> import nearzero as nz
        >>> try:
        ...     nz.activation("rellu")
        ... except nz.InputError as error:
        ...     print(error)
        unknown activation 'rellu': did you mean 'relu'? known are relu, abs, ...
    """


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """Return a hint that names the nearest of `names`, for a message; "" if none is near. Case is ignored.

    Example:
        >>> from nearzero.errors import did_you_mean
        >>> did_you_mean("ReLu", ["relu", "abs"])
        "did you mean 'relu'? "
        >>> did_you_mean("softmax", ["relu", "abs"])
        ''
    """
    originals = {original.lower(): original for original in names}
    nearest = difflib.get_close_matches(str(name).lower(), originals, n=1)
    return f"did you mean {originals[nearest[0]]!r}? " if nearest else ""


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise an error unless the argument called `name` has one of the values `choices`.

    Raises:
        InputError: `value` isn't among `choices`.

    Example:
        >>> from nearzero.errors import check_choice
        >>> check_choice("side", "post", ("pre", "post"))
        >>> check_choice("side", "pots", ("pre", "post"))
        Traceback (most recent call last):
        nearzero.errors.InputError: side must be one of pre, post; got 'pots'; did you mean 'post'?
    """
    if not isinstance(value, str) or value not in choices:
        hint = did_you_mean(value, choices).rstrip()
        raise InputError(
            f"{name} must be one of {', '.join(choices)}; got {value!r}" + (hint and f"; {hint}")
        )
