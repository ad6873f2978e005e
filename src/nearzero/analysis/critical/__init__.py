"""Critical levels: for each example, every interval of levels on which the prediction stays the same.

`find` holds the public function. `intervals` computes the intervals: exactly where the logits are piecewise
linear in the level, by search on a grid elsewhere. `levels` holds the result, its methods and its file
format.
"""

from nearzero.analysis.critical.find import critical_levels
from nearzero.analysis.critical.levels import CriticalLevels

__all__ = ["CriticalLevels", "critical_levels"]
