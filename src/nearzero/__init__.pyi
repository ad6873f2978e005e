from . import datasets
from .analysis.critical import CriticalLevels, critical_levels
from .analysis.displacement import displacement
from .analysis.matched import Design, matched
from .analysis.near_far import near_and_far
from .analysis.scale_invariance import ScaleAudit, scale_audit
from .analysis.sweep import sweep, unit_ranges
from .analysis.verdict import Rules, Verdict, verdict
from .errors import InputError
from .evaluators.hidden_layer import HiddenLayer
from .grid import Grid, GridSpec, OwnNetwork, OwnProbe
from .networks import Stack, TwoLayer
from .networks.pixels import Pixels
from .perturbations.activations import ACTIVATIONS, Activation, activation
from .perturbations.families import (
    FAMILIES,
    PAPER_FAMILIES,
    Cap,
    Clip,
    Conduct,
    DistanceShift,
    Family,
    Floor,
    Gains,
    Offset,
    PermutedShift,
    Scale,
    Shift,
    SignedDistanceShift,
    SignedOffset,
    SignedShift,
    make_family,
)
from .perturbations.perturbation import Perturbation
from .perturbations.ranges import Ranges, UnitRange
from .probing import Generation, ProbeResult, generate, judge_runs, layers, probe
from .study import Spec, Study, reproduce
from .support.workers import Workers
from .torch_models.layer import Layer
from .torch_models.loading.fitting import LoadedWeights, load_weights
from .torch_models.named import Loading, NamedData, NamedModel, Origin, open_data, open_model

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
    "DistanceShift",
    "Family",
    "Floor",
    "Gains",
    "Generation",
    "Grid",
    "GridSpec",
    "HiddenLayer",
    "InputError",
    "Layer",
    "LoadedWeights",
    "Loading",
    "NamedData",
    "NamedModel",
    "Offset",
    "Origin",
    "OwnNetwork",
    "OwnProbe",
    "PermutedShift",
    "Perturbation",
    "Pixels",
    "ProbeResult",
    "Ranges",
    "Rules",
    "Scale",
    "ScaleAudit",
    "Shift",
    "SignedDistanceShift",
    "SignedOffset",
    "SignedShift",
    "Spec",
    "Stack",
    "Study",
    "TwoLayer",
    "UnitRange",
    "Verdict",
    "Workers",
    "__version__",
    "activation",
    "critical_levels",
    "datasets",
    "displacement",
    "generate",
    "judge_runs",
    "layers",
    "load_weights",
    "make_family",
    "matched",
    "near_and_far",
    "open_data",
    "open_model",
    "probe",
    "reproduce",
    "scale_audit",
    "sweep",
    "unit_ranges",
    "verdict",
]
__version__: str
