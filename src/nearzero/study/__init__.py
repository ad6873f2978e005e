"""Studies: many networks, trained, swept and judged, on disk."""

from nearzero.study.spec import PRESETS, Spec, resolve
from nearzero.study.study import Study, reproduce

__all__ = ["PRESETS", "Spec", "Study", "reproduce", "resolve"]
