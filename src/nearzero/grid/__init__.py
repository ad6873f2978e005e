"""Grids: studies that differ in one thing, with the verdict on each.

`spec` holds a grid's spec, `networks` trains and measures its networks, `own` those that are a user's own, and `grid`
manages its folder.
"""

from nearzero.grid.grid import Grid
from nearzero.grid.own.spec import OwnNetwork, OwnProbe
from nearzero.grid.spec import GridSpec, Point

__all__ = ["Grid", "GridSpec", "OwnNetwork", "OwnProbe", "Point"]
