"""The one exception that nearzero raises for wrong input, and hints for misspelt names.

Every package raises `InputError`, so it is defined apart from all of them. Only the command line catches it:
it prints the message as one line and ends the program with exit code 2.
"""

import difflib
import re
from collections.abc import Collection, Iterable

__all__ = ["InputError", "check_choice", "did_you_mean", "one_line"]

LONGEST_WORD = 400  # characters of a word; what is longer is cut in the middle
LONGEST = 1600  # characters of a message
MIDDLE = "..."


class InputError(ValueError):
    """An error in something given from outside: an argument, a file, a setting.

    The message is one line: what was wrong, what was seen, and what to do. Where what was seen is very long, its middle
    is left out; characters that would break the line or control a terminal become spaces.

    Example:
        >>> import nearzero as nz
        >>> try:
        ...     nz.activation("rellu")
        ... except nz.InputError as error:
        ...     print(error)
        unknown activation 'rellu': did you mean 'relu'? known are relu, abs, ...
    """

    def __init__(self, message: str) -> None:
        words = re.sub(
            rf"\S{{{LONGEST_WORD + 1},}}", lambda word: _cut(word[0], LONGEST_WORD), one_line(message)
        )
        super().__init__(_cut(words, LONGEST))


def one_line(text: str) -> str:
    """Return a text as one line: characters that would break it or control a terminal become spaces.

    Example:
        >>> from nearzero.errors import one_line
        >>> one_line("no\\nthanks")
        'no thanks'
    """
    return "".join(character if character.isprintable() else " " for character in text)


def _cut(text: str, most: int) -> str:
    """Return a text of at most so many characters, without its middle if it is longer."""
    if len(text) <= most:
        return text
    half = (most - len(MIDDLE)) // 2
    return f"{text[:half]}{MIDDLE}{text[-half:]}"


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
