"""HTML as values: text is escaped when it becomes part of an element, unless it is markup already."""

from __future__ import annotations

import html
from collections.abc import Iterable

__all__ = ["Child", "Markup", "joined", "tag", "text"]

VOID = frozenset({"meta", "input", "br", "hr", "img", "col"})


class Markup(str):
    """A text that is HTML already and must not be escaped again.

    Example:
        >>> from nearzero.report.render.markup import Markup, tag
        >>> tag("p", "a < b ", Markup("<b>c</b>"))
        '<p>a &lt; b <b>c</b></p>'
    """

    __slots__ = ()


Child = str | int | float | Iterable["Child"] | None


def text(value: object) -> Markup:
    """Return a value as HTML: markup as it is, and everything else as escaped text.

    Example:
        >>> from nearzero.report.render.markup import text
        >>> text("</script>")
        '&lt;/script&gt;'
    """
    return value if isinstance(value, Markup) else Markup(html.escape(str(value), quote=True))


def joined(children: Child) -> Markup:
    """Return children as HTML, one after the other; None and empty ones add nothing."""
    if children is None:
        return Markup()
    if isinstance(children, str | int | float):
        return text(children)
    return Markup("".join(joined(child) for child in children))


def tag(name: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Markup:
    """Return an element with its children and attributes, all of them escaped.

    Args:
        name: of the element.
        children: texts, markup, or iterables of these.
        attributes: an underscore in a name becomes a hyphen, except at the end, where it is left out (`class_`).
            None and False leave an attribute out; True gives an attribute without a value.

    Example:
        >>> from nearzero.report.render.markup import tag
        >>> tag("a", "x & y", href="#one", class_="link", aria_label='say "x"')
        '<a href="#one" class="link" aria-label="say &quot;x&quot;">x &amp; y</a>'
        >>> tag("input", type="range", disabled=True, title=None)
        '<input type="range" disabled>'
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.removesuffix("_").replace("_", "-")
        parts.append(attribute if value is True else f'{attribute}="{text(value)}"')
    opening = Markup(f"<{' '.join(parts)}>")
    return opening if name in VOID else Markup(f"{opening}{joined(children)}</{name}>")
