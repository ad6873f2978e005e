"""Critical levels: for each example, every interval of levels on which the prediction stays the same.

`find` is the way in. `intervals` gives them exactly where the logits are piecewise linear in the level, and finds them
on a grid elsewhere. `levels` is what comes out, with what can be asked of it, and its file.
"""

from nearzero.analysis.critical.find import critical_levels
from nearzero.analysis.critical.levels import CriticalLevels

__all__ = ["CriticalLevels", "critical_levels"]
