"""nearzero: do hidden units measure distance or intensity? Perturb them, and see.

import nearzero as nz

study = nz.reproduce("quick")             # or nz.Study.open(folder)
study.response                            # xarray.Dataset
nz.sweep(network, x, y, family="offset")  # one network, from arrays or an nn.Module of this shape
nz.probe(model, loader)                   # any layers of any PyTorch model
"""

from typing import TYPE_CHECKING, Any

from nearzero import datasets
from nearzero.activations import ACTIVATIONS, Activation, activation
from nearzero.critical import CriticalLevels, critical_levels
from nearzero.displacement import displacement
from nearzero.errors import InputError
from nearzero.families import (
    FAMILIES,
    PAPER_FAMILIES,
    Cap,
    Clip,
    Conduct,
    Family,
    Gains,
    Offset,
    PermutedShift,
    Scale,
    Shift,
    SignedOffset,
    SignedShift,
    make_family,
)
from nearzero.hidden import HiddenLayer
from nearzero.invariance import ScaleAudit, scale_audit
from nearzero.matched import Design, matched
from nearzero.networks import Stack, TwoLayer
from nearzero.parts import near_and_far
from nearzero.perturbation import Perturbation
from nearzero.pixels import Pixels
from nearzero.ranges import Ranges, UnitRange
from nearzero.study import Spec, Study, reproduce
from nearzero.sweep import sweep, unit_ranges
from nearzero.verdict import Rules, Verdict, verdict

if TYPE_CHECKING:
    from nearzero.analysis import ProbeResult, layers, probe
    from nearzero.grid import Grid, GridSpec
    from nearzero.probing.layer import Layer

__all__ = [
    "ACTIVATIONS",
    "FAMILIES",
    "PAPER_FAMILIES",
    "Activation",
    "Cap",
    "Clip",
    "Conduct",
    "CriticalLevels",
    "Design",
    "Family",
    "Gains",
    "Grid",
    "GridSpec",
    "HiddenLayer",
    "InputError",
    "Layer",
    "Offset",
    "PermutedShift",
    "Perturbation",
    "Pixels",
    "ProbeResult",
    "Ranges",
    "Rules",
    "Scale",
    "ScaleAudit",
    "Shift",
    "SignedOffset",
    "SignedShift",
    "Spec",
    "Stack",
    "Study",
    "TwoLayer",
    "UnitRange",
    "Verdict",
    "activation",
    "critical_levels",
    "datasets",
    "displacement",
    "layers",
    "make_family",
    "matched",
    "near_and_far",
    "probe",
    "reproduce",
    "scale_audit",
    "sweep",
    "unit_ranges",
    "verdict",
]


def __getattr__(name: str) -> Any:
    """What needs PyTorch from the start, which takes a while to import, waits until it's asked for."""
    if name in {"ProbeResult", "layers", "probe"}:
        from nearzero import analysis

        return getattr(analysis, name)
    if name == "Layer":
        from nearzero.probing.layer import Layer

        return Layer
    if name in {"Grid", "GridSpec"}:
        from nearzero import grid

        return getattr(grid, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
