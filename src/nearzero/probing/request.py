"""What a user asks a probe for: checked, and in the form that it's used in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from torch import Tensor

from nearzero.errors import InputError
from nearzero.families import FAMILIES, PAPER_FAMILIES, Conduct, make_family
from nearzero.memory import memory_limit
from nearzero.networks.modules import activation_module
from nearzero.probing.batches import Prepare
from nearzero.probing.layer import Layer
from nearzero.probing.model import Output
from nearzero.probing.passes import Method
from nearzero.probing.plan import Levels, check_levels
from nearzero.probing.scores import Metrics

__all__ = ["Names", "Request"]

Names = str | Layer | Iterable[str | Layer] | None


@dataclass(eq=False, kw_only=True)
class Request:
    """The settings of a probe, as `nearzero.probing.probe` describes them.

    Attributes:
        wanted: the layers' names; None for all activations.
        names: of families.
        limit: bytes that the work may take.

    Raises:
        InputError: one of them that can't be, and what it may be.
    """

    layers: Names = None
    families: str | Iterable[str] = PAPER_FAMILIES
    levels: Levels = None
    metrics: Metrics = None
    quantiles: tuple[float, float] | None = None
    conduct: Conduct | None = None
    activation: str | Callable[[Tensor], Tensor] | None = None
    unit_axis: int | None = None
    prepare: Prepare | None = None
    output: Output | None = None
    causal: bool | None = None
    batch_size: int | None = None
    memory: int | str | None = None
    method: Method = "auto"
    keep_items: bool = False

    def __post_init__(self) -> None:
        self.wanted = _layer_names(self.layers)
        self.names = _family_names(self.families)
        self.limit = memory_limit(self.memory)
        if isinstance(self.levels, bool):
            raise InputError(f"levels must be numbers, or how many of a family's own; got {self.levels}")
        check_levels(self.names, self.levels)
        self._check_quantiles()
        if self.method not in get_args(Method):
            raise InputError(f"method must be auto, suffix or full; got {self.method!r}")
        if self.conduct is not None and not isinstance(self.conduct, Conduct):
            raise InputError(f"conduct must be an nz.Conduct; got {type(self.conduct).__name__}")
        if self.unit_axis is not None and not _is_whole(self.unit_axis):
            raise InputError(f"unit_axis must be a whole number, a dimension; got {self.unit_axis!r}")
        if self.causal not in (True, False, None):
            raise InputError(f"causal must be True, False or None; got {self.causal!r}")
        for name in ("prepare", "output"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise InputError(f"{name} must be a function; got {type(value).__name__}")
        if self.activation is not None and not callable(self.activation):
            activation_module(self.activation)  # refuses unknown names

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

    def told(self, layer: Layer) -> Layer:
        """A layer with what the user says of it.

        Raises:
            InputError: it has no such dimension.
        """
        if self.unit_axis is not None:
            axes = len(layer.shape)
            if not -axes <= self.unit_axis < axes or self.unit_axis % axes == 0:
                raise InputError(
                    f"unit_axis={self.unit_axis} isn't a dimension of units of layer {layer.name!r}, whose values are "
                    f"{layer.shape} with the examples first"
                )
            layer = replace(layer, unit_axis=self.unit_axis % axes)
        act = self.activation
        if act is None or layer.kind in ("activation", "function") or act == layer.activation:
            return layer
        if callable(act):
            name = getattr(act, "__name__", type(act).__name__)
            return replace(layer, act=act, activation=name, follows=None)
        return replace(layer, act=activation_module(act), activation=act, follows=None)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _layer_names(layers: Any) -> list[str] | None:
    if layers is None:
        return None
    some = [layers] if isinstance(layers, (str, Layer)) else layers
    names = [each.name if isinstance(each, Layer) else each for each in some] if _is_list(some) else [None]
    if not names or not all(isinstance(each, str) for each in names):
        raise InputError(
            f"layers must be names or globs, at least one, or None for all activations; got {layers!r}"
        )
    return names  # type: ignore[return-value]


def _family_names(families: Any) -> list[str]:
    names = [families] if isinstance(families, str) else list(families) if _is_list(families) else []
    if not names or not all(isinstance(each, str) for each in names):
        raise InputError(f"families must be a name or names, of {', '.join(FAMILIES)}; got {families!r}")
    if len(set(names)) < len(names):
        raise InputError(f"families name one of them twice: {', '.join(names)}")
    for each in names:
        make_family(each, Conduct())  # refuses unknown names
    return names


def _is_list(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))
