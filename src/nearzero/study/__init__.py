"""Studies: many networks, swept, on disk."""

from nearzero.study.reproduce import reproduce
from nearzero.study.spec import PRESETS, Spec, resolve
from nearzero.study.study import Study

__all__ = ["PRESETS", "Spec", "Study", "reproduce", "resolve"]
