"""Names that a user gives, which must fit in files, tables and figures."""

from __future__ import annotations

import unicodedata

from nearzero.errors import InputError

__all__ = ["check_label", "has_unwritable"]


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
