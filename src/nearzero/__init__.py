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
from nearzero.errors import InputError
from nearzero.families import FAMILIES, Clip, Conduct, Family, Offset, Scale, make_family
from nearzero.hidden import HiddenLayer
from nearzero.networks import Stack, TwoLayer
from nearzero.perturbation import Perturbation
from nearzero.pixels import Pixels
from nearzero.ranges import Ranges, UnitRange
from nearzero.study import Spec, Study, reproduce
from nearzero.sweep import sweep, unit_ranges

if TYPE_CHECKING:
    from nearzero.probing import Layer, ProbeResult, layers, probe

__all__ = [
    "ACTIVATIONS",
    "FAMILIES",
    "Activation",
    "Clip",
    "Conduct",
    "CriticalLevels",
    "Family",
    "HiddenLayer",
    "InputError",
    "Layer",
    "Offset",
    "Perturbation",
    "Pixels",
    "ProbeResult",
    "Ranges",
    "Scale",
    "Spec",
    "Stack",
    "Study",
    "TwoLayer",
    "UnitRange",
    "activation",
    "critical_levels",
    "datasets",
    "layers",
    "make_family",
    "probe",
    "reproduce",
    "sweep",
    "unit_ranges",
]


def __getattr__(name: str) -> Any:
    """What needs PyTorch from the start, which takes a while to import, waits until it's asked for."""
    if name in {"Layer", "ProbeResult", "layers", "probe"}:
        from nearzero import probing

        return getattr(probing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
