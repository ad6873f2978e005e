"""Studies that are trained and measured in about a second."""

from pathlib import Path
from typing import Any

import nearzero as nz

SETTINGS: dict[str, Any] = {
    "data": "digits",
    "runs": 2,
    "units": 12,
    "steps": 40,
    "batch_size": 64,
    "evaluate_every": 20,
    "learning_rate": 0.01,
    "verdict_draws": 1,
    "verdict_targets": [0.1],
}


def make(folder: Path, **settings: Any) -> nz.Study:
    """Return a new study with these settings in the place of the small ones."""
    return nz.Study.create(folder, "quick", SETTINGS | settings)
