"""Words of sentences that tell results."""

from __future__ import annotations

__all__ = ["number_of"]


def number_of(count: int, noun: str) -> str:
    """Return a count with its noun: "1 run", "2,000 runs".

    Args:
        count: how many there are.
        noun: what they are, in the singular; its plural ends in s.

    Example:
        >>> from nearzero.support.words import number_of
        >>> number_of(1, "network"), number_of(2000, "network")
        ('1 network', '2,000 networks')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
