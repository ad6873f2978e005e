"""Grids: studies that differ in one thing, with the verdict on each.

`spec` holds a grid's spec, `networks` trains and measures its networks, and `grid` manages its folder.
"""

from nearzero.grid.grid import Grid
from nearzero.grid.spec import GridSpec, Point

__all__ = ["Grid", "GridSpec", "Point"]
