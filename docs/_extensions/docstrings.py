"""Docstrings as the house writes them, prepared for Napoleon and reStructuredText.

Napoleon reads a colon as the end of a type, and reStructuredText reads |z| as a substitution.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

__all__ = ["setup"]

ALIAS = re.compile(r"TypeAliasForwardRef\('([^']*)'\)")
BAR = re.compile(r"`+[^`]*`+|\|")  # code, or a bar outside of code
SEVERAL = re.compile(r"^( +)(\w+(?:, \w+)+): ")


def prepare(app: Sphinx, what: str, name: str, member: Any, options: Any, lines: list[str]) -> None:
    """Keep "Return the sides: ..." of a property whole, and names that share an entry ("w1, b1: ...") together."""
    if what == "property" and lines:
        lines[:1] = re.sub(r": (?=.)", ":\n", lines[0], count=1).split("\n")
    example = False  # from >>> to the next empty line
    for row, line in enumerate(lines):
        example = bool(line) and (example or line.lstrip().startswith(">>>"))
        if not example:
            together = SEVERAL.sub(lambda found: found[0].replace(", ", ",\u200b"), line)
            lines[row] = BAR.sub(lambda found: found[0] if len(found[0]) > 1 else r"\|", together)


def plain_aliases(
    app: Sphinx, what: str, name: str, member: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Return a signature in which a type alias inside a union is its name, and not the repr of a `ForwardRef`."""
    return tuple(text and ALIAS.sub(r"\1", text) for text in (signature, returned))  # type: ignore[return-value]


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the events, that of docstrings before Napoleon's."""
    app.connect("autodoc-process-docstring", prepare, priority=400)
    app.connect("autodoc-process-signature", plain_aliases)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
