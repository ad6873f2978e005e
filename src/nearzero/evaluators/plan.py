"""Check the settings of a probe, and turn them into the perturbations of each layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nearzero.errors import InputError, check_choice, did_you_mean
from nearzero.evaluators.scores import Metrics
from nearzero.networks.modules import activation_module
from nearzero.perturbations.activations import ACTIVATIONS
from nearzero.perturbations.families import (
    BY_WEIGHTS,
    PAPER_FAMILIES,
    Conduct,
    Family,
    Offset,
    SignedOffset,
    make_family,
)
from nearzero.perturbations.given import Families, Fixed, read_families
from nearzero.perturbations.noise import NOISES
from nearzero.perturbations.perturbation import AnyPerturbation, Side
from nearzero.perturbations.ranges import Ranges
from nearzero.support.arrays import as_numbers
from nearzero.support.memory import memory_limit
from nearzero.torch_models.assumptions.experiments import BatchAxis
from nearzero.torch_models.assumptions.outputs import ClassAxis, OutputKind, check_settings
from nearzero.torch_models.batches import Prepare
from nearzero.torch_models.forward import Method
from nearzero.torch_models.layer import Basis, Directions, Layer, SelectedUnits, Units, read_coordinates
from nearzero.torch_models.named import Loading
from nearzero.torch_models.state import Output

__all__ = [
    "LayerPlan",
    "Levels",
    "Names",
    "Request",
    "check_families",
    "conduct_of",
    "make_plan",
]

Levels = Mapping[str, npt.ArrayLike] | npt.ArrayLike | int | None

Names = str | Layer | Iterable[str | Layer] | None


@dataclass(eq=False, kw_only=True)
class Request:
    """Hold the settings of a probe, as `nearzero.probing.probe` describes them, checked.

    Attributes:
        wanted: the layers' names or globs; None for all activations.
        chosen: the families, by the name that they have in the result.
        limit: the bytes that the computation may take.
        coordinates: the units or directions that are perturbed, by the name of their group; None for all units.
        centred: whether mean changes of logits are measured too.

    Raises:
        InputError: a setting has an impossible value; the message says which values are possible.
    """

    layers: Names = None
    families: Families = PAPER_FAMILIES
    levels: Levels = None
    metrics: Metrics = None
    quantiles: tuple[float, float] | None = None
    conduct: Conduct | None = None
    activation: str | Callable[[Tensor], Tensor] | None = None
    unit_axis: int | None = None
    prepare: Prepare | None = None
    output: Output | None = None
    output_kind: OutputKind | None = None
    class_axis: ClassAxis | None = None
    causal: bool | None = None
    batch_size: int | None = None
    batch_axis: BatchAxis = None
    units: Units = None
    basis: Basis = None
    memory: int | str | None = None
    method: Method = "auto"
    keep_items: bool = False
    centred: bool = False
    loading: Loading | None = None

    def __post_init__(self) -> None:
        self.wanted = _layer_names(self.layers)
        self.chosen = read_families(self.families)
        self.limit = memory_limit(self.memory)
        self.coordinates = read_coordinates(self.units, self.basis)
        if isinstance(self.levels, bool):
            raise InputError(f"levels must be numbers, or how many of a family's own; got {self.levels}")
        if isinstance(self.levels, Mapping) and not self.levels.keys() <= self.chosen.keys():
            unknown = next(name for name in self.levels if name not in self.chosen)
            hint = did_you_mean(unknown, self.chosen)
            raise InputError(
                f"levels are given for {unknown!r}, which isn't among the families: {hint}the families are "
                f"{', '.join(self.chosen)}"
            )
        self._check_quantiles()
        check_choice("method", self.method, get_args(Method))
        if self.loading is not None and not isinstance(self.loading, Loading):
            raise InputError(f"loading must be an nz.Loading; got {type(self.loading).__name__}")
        if self.conduct is not None and not isinstance(self.conduct, Conduct):
            raise InputError(f"conduct must be an nz.Conduct; got {type(self.conduct).__name__}")
        if self.unit_axis is not None and type(self.unit_axis) is not int:
            raise InputError(f"unit_axis must be a whole number, a dimension; got {self.unit_axis!r}")
        if self.batch_axis not in (None, 0, 1, "none") or isinstance(self.batch_axis, bool):
            raise InputError(f"batch_axis must be 0, 1, 'none' or None; got {self.batch_axis!r}")
        if self.causal not in (True, False, None):
            raise InputError(f"causal must be True, False or None; got {self.causal!r}")
        check_settings(self.output_kind, self.class_axis)
        if self.prepare is not None and not callable(self.prepare):
            raise InputError(f"prepare must be a function; got {type(self.prepare).__name__}")
        if self.output is not None and not callable(self.output) and type(self.output) not in (int, str):
            raise InputError(
                f"output must be a function, or the key or index of the logits; got {type(self.output).__name__}"
            )
        if self.activation is not None and not callable(self.activation):
            activation_module(self.activation)  # raises for an unknown name

    def _check_quantiles(self) -> None:
        if self.quantiles is None:
            return
        try:
            low, high = map(float, self.quantiles)
        except (TypeError, ValueError):
            low, high = 1.0, 0.0
        if not 0 <= low < high <= 1:
            raise InputError(
                f"quantiles must be two numbers from 0 to 1, the lower first; got {self.quantiles!r}"
            )
        self.quantiles = (low, high)

    def parts(self, layer: Layer) -> list[Layer]:
        """Return a layer once for each group of units or directions that the user gave.

        Raises:
            InputError: they don't fit the layer's units.
        """
        if self.coordinates is None:
            return [layer]
        groups = self.coordinates
        if groups == "each":
            groups = {f"unit {unit}": SelectedUnits(np.array([unit])) for unit in range(layer.width)}
        return [layer.on(name, coordinates) for name, coordinates in groups.items()]

    def with_overrides(self, layer: Layer) -> Layer:
        """Return a layer with the unit axis and the activation that the user gave.

        Raises:
            InputError: the layer doesn't have this dimension.
        """
        if self.unit_axis is not None:
            axes = len(layer.shape)
            if not -axes <= self.unit_axis < axes or self.unit_axis % axes == 0:
                raise InputError(
                    f"unit_axis={self.unit_axis} isn't a dimension of units of layer {layer.name!r}, whose values are "
                    f"{layer.shape} with the examples first"
                )
            axis = self.unit_axis % axes
            layer = replace(
                layer, unit_axis=axis, producer=layer.producer if axis == layer.unit_axis else None
            )
        act = self.activation
        if act is None or layer.is_input_of_activation or act == layer.activation:
            return layer
        if callable(act):
            name = getattr(act, "__name__", type(act).__name__)
            return replace(layer, act=act, activation=name, follows=None)
        return replace(layer, act=activation_module(act), activation=act, follows=None)


def _layer_names(layers: Any) -> list[str] | None:
    if layers is None:
        return None
    given = [layers] if isinstance(layers, (str, Layer)) else layers
    names = (
        [layer.name if isinstance(layer, Layer) else layer for layer in given] if _is_list(given) else [None]
    )
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"layers must be names or globs, at least one, or None for all activations; got {layers!r}"
        )
    return names  # type: ignore[return-value]


def _is_list(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


Grid = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """Hold one layer and its perturbations.

    Attributes:
        layer, ranges, conduct: the layer, unit ranges and conduct that the perturbations were made for.
        grids: by family, its levels, ascending.
        perturbations: those of all families, one family after the other.
    """

    layer: Layer
    ranges: Ranges
    conduct: Conduct
    grids: Mapping[str, Grid]
    perturbations: Sequence[AnyPerturbation]

    def by_side(self) -> Iterator[tuple[Side, list[int]]]:
        """Yield each side that is perturbed, with the indices of its perturbations."""
        sides: tuple[Side, Side] = ("pre", "post")
        for side in sides:
            indices = [index for index, each in enumerate(self.perturbations) if each.side == side]
            if indices:
                yield side, indices


def make_plan(
    layer: Layer,
    ranges: Ranges,
    families: Mapping[str, str | Family],
    levels: Levels,
    conduct: Conduct | None,
) -> LayerPlan:
    """Return the perturbations of one layer: all families, each at all of its levels.

    Args:
        layer: the layer.
        ranges: its unit ranges.
        families: by the name in the result, the name of a family or a family.
        levels: as in `nearzero.probing.probe`.
        conduct: as in `nearzero.probing.probe`.

    Raises:
        InputError: an unknown family, levels outside its domain, or a conduct that the layer doesn't allow.
    """
    conduct = conduct_of(layer, conduct)
    check_families(layer, conduct, families.values())
    try:
        made = {
            name: make_family(each, conduct) if isinstance(each, str) else each
            for name, each in families.items()
        }
        grids = {name: _grid(name, family, levels) for name, family in made.items()}
        perturbations = [family.at(level, ranges) for name, family in made.items() for level in grids[name]]
    except InputError as error:
        raise InputError(f"layer {layer.name!r}: {error}") from error
    return LayerPlan(layer, ranges, conduct, grids, perturbations)


def conduct_of(layer: Layer, conduct: Conduct | None) -> Conduct:
    """Return the conduct asked for; if None, the default one of the layer's activation.

    The default is the published conduct for ReLU and Abs, and a shift by the pre-activation range for all
    others.
    """
    published = layer.activation in ("relu", "abs")
    return conduct or (Conduct() if published else Conduct(offset="shift", range="pre"))


def check_families(layer: Layer, conduct: Conduct, families: Iterable[str | Family]) -> None:
    """Raise an error for families that aren't defined at a layer.

    Raises:
        InputError: an offset as run where the activation isn't ReLU or Abs, a perturbation after an activation
            whose place in the model isn't known, or a distance where the weights aren't known; the message
            says what to do.
    """
    made = [
        make_family(each, conduct) if isinstance(each, str) else each
        for each in families
        if each not in NOISES
    ]
    by_weights = [family.name for family in made if family.name in BY_WEIGHTS]
    post = [family.name for family in made if family.acts_on == "post"]
    if isinstance(layer.coordinates, Directions) and (of_units := [*by_weights, *post]):
        raise InputError(
            f"layer {layer.name!r}: {' and '.join(of_units)} can't be measured along directions, which have neither "
            "weights nor activations of their own; leave them or basis=... out"
        )
    if layer.producer is None and by_weights:
        raise InputError(
            f"layer {layer.name!r}: {' and '.join(by_weights)} need the weights that give its values, and these aren't "
            "the plain output of a linear layer or convolution; leave the family or the layer out"
        )
    for family in made:
        if isinstance(family, (Offset, SignedOffset)):
            try:
                _check_offset(replace(conduct, offset=family.formula), layer)
            except InputError as error:
                raise InputError(f"layer {layer.name!r}: {error}") from error
    placed = layer.is_input_of_activation or layer.follows is not None
    if any(family.acts_on == "post" for family in made) and layer.act is not None and not placed:
        raise InputError(
            f"layer {layer.name!r}: clip=post, cap and floor act after the activation, whose place in the model isn't "
            "known; name the activation's own layer, or use clip=pre"
        )


def _check_offset(conduct: Conduct, layer: Layer) -> None:
    """Raise an error for "as-run" where the activation isn't ReLU or Abs."""
    if layer.activation in ACTIVATIONS:
        conduct.check([str(layer.activation)])
    elif conduct.offset == "as-run" and layer.activation is not None:
        raise InputError(
            f"offset=as-run isn't defined for {layer.activation}, only for relu and abs; use offset=shift"
        )


def _grid(name: str, family: Family, levels: Levels) -> Grid:
    """Return the levels of a family: all of its own, a number of them evenly spaced, or those given.

    A perturbation that was given as such has one level.
    """
    own = family.levels
    if isinstance(levels, Mapping):
        levels = levels.get(name)
    if levels is None or isinstance(family, Fixed):
        return own
    if isinstance(levels, (int, np.integer)) and not isinstance(levels, bool):
        if levels < 1:
            raise InputError(f"levels must be at least 1; got {levels}")
        indices = np.linspace(0, len(own) - 1, min(int(levels), len(own))).round().astype(int)
        return np.asarray(own[np.unique(indices)])
    given = np.atleast_1d(as_numbers(levels, "levels")).astype(np.float64)
    if given.ndim != 1 or not given.size:
        raise InputError(f"levels of {name} must be a flat array of at least one; got shape {given.shape}")
    return np.unique(given)
