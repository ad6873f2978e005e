"""Names and scales of metrics, layers, families and levels, for figures, tables and pages; nothing is drawn here."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from nearzero.perturbations.families import FAMILIES, Conduct, make_family

__all__ = [
    "LOSSES",
    "READINGS",
    "SHARES",
    "UNITS",
    "Reading",
    "identity_level",
    "is_logarithmic",
    "level_title",
    "metric_text",
    "reading_of",
    "scale_ends",
    "short_names",
    "spelled",
]

Reading = Literal["distance", "intensity", "neither"]

# What the families change. Families of one reading have one colour, and dashes in this order.
READINGS: Mapping[Reading, tuple[str, ...]] = {
    "distance": (
        *("offset", "shift", "signed_offset", "signed_shift", "permuted_shift", "distance_shift"),
        "signed_distance_shift",
    ),
    "intensity": ("scale", "clip", "cap", "gains", "floor"),
    "neither": ("noise", "covariance_noise"),
}
SHARES = ("accuracy", "agreement")  # from 0 to 100 %
LOSSES = ("cross_entropy", "perplexity", "kl_divergence")  # less is better
UNITS = {"cross_entropy": "nats", "kl_divergence": "nats", "margin": "logits"}
LABELS = {
    "scale": "level (factor)",
    "gains": "level (deviation of ln gain)",
    "distance_shift": "level, in reference distances",
    "signed_distance_shift": "level, in reference distances",
}
TAIL = 0.02  # share of values beyond each end of a scale without bounds
INDISTINCT = 1e-4  # nats; the scale of a loss is at least this wide
WIDE = 20  # times the least level; from here on an axis is logarithmic
LONGEST_NAME = 34  # characters of a layer's name


def reading_of(family: str) -> Reading:
    """Return whether a family changes distance, intensity or neither, as noise and a user's own family do."""
    return next((reading for reading, families in READINGS.items() if family in families), "neither")


def metric_text(metric: str, value: float) -> str:
    """Return a metric's value as a reader expects it: shares in percent.

    Example:
        >>> from nearzero.report.figures.scales import metric_text
        >>> metric_text("accuracy", 0.5), metric_text("margin", 1.23456)
        ('50.00 %', '1.235')
    """
    return f"{100 * value:.2f} %" if metric in SHARES else f"{value:.4g}"


def spelled(name: str) -> str:
    """Return the name of a metric or a family as words."""
    return name.replace("_", " ").replace("kl ", "KL ")


def level_title(family: str) -> str:
    """Return the title of the axis of a family's levels."""
    return LABELS.get(family, "level, in unit ranges" if family in FAMILIES else "level")


def is_logarithmic(levels: npt.NDArray[np.float64]) -> bool:
    """Return whether levels belong on a logarithmic axis."""
    return bool(len(levels) > 1 and levels.min() > 0 and levels.max() / levels.min() > WIDE)


def identity_level(family: str, offsets: Sequence[str]) -> float | None:
    """Return the level at which a family changes nothing, if there is one.

    Args:
        family: its name in the result.
        offsets: the conduct of the layers, as the result has it.
    """
    conduct = Conduct(offset="as-written" if "as-written" in offsets else "shift")
    return make_family(family, conduct).identity if family in FAMILIES else None


def scale_ends(metric: str, values: npt.NDArray[np.float64], base: float) -> tuple[float, float]:
    """Return the ends of a metric's scale: 0 and 1 of a share, else nearly all values and the unperturbed one.

    The most extreme values are left out, because a few levels can have values so extreme that all others
    would have the same colour. If all values are equal up to rounding, the scale is wide enough to give them
    the same colour.
    """
    if metric in SHARES:
        return 0.0, 1.0
    finite = values[np.isfinite(values)]
    ends = list(np.quantile(finite, [TAIL, 1 - TAIL])) if finite.size else [0.0, 0.0]
    ends += [base] if np.isfinite(base) else []
    low, high = float(min(ends)), float(max(ends))
    least = max(INDISTINCT if metric in LOSSES else 0.0, 1e-3 * max(abs(low), abs(high)), 1e-12)
    return low, max(high, low + least)


def short_names(names: list[str]) -> list[str]:
    """Shorten the names of layers to `LONGEST_NAME` characters.

    As few leading parts as possible are abbreviated, the same number in all names. If that isn't enough, the
    middle of a name is left out.
    """
    for count in range(max(name.count(".") for name in names) + 1):
        shortened = [_abbreviated(name, count) for name in names]
        if max(map(len, shortened)) <= LONGEST_NAME:
            return shortened
    half = LONGEST_NAME // 2
    return [name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}" for name in shortened]


def _abbreviated(name: str, count: int) -> str:
    """Abbreviate the first `count` parts of a name to their first letters; numbers and the last part stay whole."""
    parts = name.split(".")
    count = min(count, len(parts) - 1)
    short = [part if part[:1].isdigit() else part[:1] for part in parts[:count]]
    return ".".join([*short, *parts[count:]])
