"""nearzero: do hidden units measure distance or intensity? Perturb them, and see.

import nearzero as nz

study = nz.reproduce("quick")             # or nz.Study.open(folder)
study.response                            # xarray.Dataset
nz.sweep(network, x, y, family="offset")  # one network, from arrays or an nn.Module of this shape
"""

from nearzero import datasets
from nearzero.activations import ACTIVATIONS, Activation, activation
from nearzero.errors import InputError
from nearzero.families import FAMILIES, Clip, Conduct, Family, Offset, Scale, make_family
from nearzero.hidden import HiddenLayer
from nearzero.networks import Stack, TwoLayer
from nearzero.perturbation import Perturbation
from nearzero.pixels import Pixels
from nearzero.ranges import Ranges, UnitRange
from nearzero.study import Spec, Study, reproduce
from nearzero.sweep import sweep, unit_ranges

__all__ = [
    "ACTIVATIONS",
    "FAMILIES",
    "Activation",
    "Clip",
    "Conduct",
    "Family",
    "HiddenLayer",
    "InputError",
    "Offset",
    "Perturbation",
    "Pixels",
    "Ranges",
    "Scale",
    "Spec",
    "Stack",
    "Study",
    "TwoLayer",
    "UnitRange",
    "activation",
    "datasets",
    "make_family",
    "reproduce",
    "sweep",
    "unit_ranges",
]
