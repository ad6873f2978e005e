"""Names that a user gives, which must fit in files, tables and figures, and how many a result may have."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from nearzero.errors import InputError

__all__ = ["check_label", "check_number_of_labels", "has_unwritable", "too_many_labels"]

# Of all other dimensions a file has as many labels as it has room for, and work grows with their number alone.
MOST_LABELS = {
    **{"family": 64, "side": 2, "split": 2, "target": 100, "check": 20},
    **{"part": 10, "replacement": 10, "fraction": 100, "row": 200},
}


def has_unwritable(name: str) -> bool:
    """Return whether a name holds control characters or halves of surrogate pairs, which a file can't hold."""
    return any(unicodedata.category(sign) in ("Cc", "Cs") for sign in name)


def check_label(name: object, what: str) -> None:
    """Raise an error unless a name is text that files and figures can hold.

    Args:
        name: the name.
        what: what it is the name of, for the message.

    Raises:
        InputError: it isn't text, is empty, or holds control characters or halves of surrogate pairs.
    """
    if not isinstance(name, str) or not name or has_unwritable(name):
        raise InputError(f"{what} must be text without control characters; got {name!r}")


def too_many_labels(sizes: Mapping[Any, int]) -> str:
    """Return which dimension has more labels than a result may have, in words; "" if none has.

    Args:
        sizes: by dimension, its number of labels.

    Example:
        >>> from nearzero.support.names import too_many_labels
        >>> too_many_labels({"run": 1000, "target": 1000})
        '1,000 labels on the dimension target; a result has at most 100'
    """
    for name, size in sizes.items():
        if size > (most := MOST_LABELS.get(str(name), size)):
            return f"{size:,} labels on the dimension {name}; a result has at most {most:,}"
    return ""


def check_number_of_labels(**sizes: int) -> None:
    """Refuse work whose result couldn't be read again.

    Raises:
        InputError: names a dimension with too many labels.
    """
    if words := too_many_labels(sizes):
        raise InputError(f"this would give {words}")
