"""Many studies that differ in one thing, and what becomes of the verdict: `Grid`.

What a grid is made from is in `spec`, the networks and what is measured on them in `networks`, and the folder with
all of it in `grid`.
"""

from nearzero.grid.grid import Grid
from nearzero.grid.spec import GridSpec, Point

__all__ = ["Grid", "GridSpec", "Point"]
