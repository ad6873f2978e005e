"""How a source says that it can't deliver, so that the next one is tried; no user sees it."""

__all__ = ["Unavailable"]


class Unavailable(Exception):
    """A source could not deliver; the message says why in a few words."""
