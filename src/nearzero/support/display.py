"""Results that notebooks display as HTML.

The classes of most results stand before `nearzero.report`, which makes their tables, and can't import it. So they ask
the function that `nearzero` itself sets when it is imported.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Displayed", "set_display"]

_displays: list[Callable[[object], str]] = []  # one, once `nearzero` is imported


def set_display(to_html: Callable[[object], str]) -> None:
    """Set the function that returns a result as HTML."""
    _displays[:] = [to_html]


class Displayed:
    """Give a result the method by which notebooks display it."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        """Return the result as HTML, see `nearzero.report.notebook`."""
        return _displays[0](self)
