"""Responses at matched displacement: how one network answers to families that move its activations equally far.

Unit ranges, the levels that give each displacement, and the mean shift of the logits come from one half of the
examples, the *reference*; responses from the other, so that nothing is measured on what it was set by. Sizes and
matching are in `nearzero.displacement`, the families in `nearzero.families` and `nearzero.noise`, what follows from
many runs in `nearzero.verdict`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from threadpoolctl import threadpool_limits

from nearzero.displacement import TARGETS, Displacements, Match, Whitening, match
from nearzero.errors import InputError
from nearzero.families import BY_FORMULA, FAMILIES, Conduct, Family, make_family
from nearzero.hidden import HiddenLayer
from nearzero.networks import TwoLayer, as_network
from nearzero.noise import NOISES, Noise, NoiseShape
from nearzero.perturbation import Perturbation
from nearzero.pixels import Pixels
from nearzero.sweep import as_labels

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MEASURES", "SIDES", "Design", "halves", "matched"]

Doubles = npt.NDArray[np.float64]
Changed = Callable[[slice], npt.NDArray[np.float32]]
SIDES = ("below", "above")
ROWS = 2048  # whose activations stay in cache
MEASURES = {
    "level": "level that gives the displacement, mean over draws",
    "displacement": "displacement on the reference half, as matched",
    "displacement_here": "displacement on the half that responds",
    "median_displacement": "median over examples of ||a' - a|| / ||a||",
    "whitened_displacement": "displacement in the metric of the activations' covariance",
    "logit_displacement": "sqrt(sum ||l' - l||^2 / sum ||l - mean||^2) of the logits l",
    "accuracy": "share of examples predicted right",
    "centred_accuracy": "the same, the mean logit shift of the reference half taken out",
    "agreement": "share of predictions that are those of the unperturbed network",
    "centred_agreement": "the same, the mean logit shift of the reference half taken out",
}
GEOMETRY = ("displacement_here", "median_displacement", "whitened_displacement", "logit_displacement")


@dataclass(frozen=True, kw_only=True)
class Design:
    """What is measured at matched displacement.

    Attributes:
        families: names of `nearzero.families` and `nearzero.noise`.
        targets: the displacements, 0.1 for 10 %.
        draws: of each family in which something is drawn for each unit; noise, drawn for each example, is drawn once.
        seed: of the draws, and of which examples are the reference.
        first_draw: the number of the first draw. Runs of one model should have draws of their own (number of the run
            times draws, say): what a draw costs is then no part of what the runs have in common.
        conduct: the reading of the protocol; `Conduct.default` of the activation if None.

    Raises:
        InputError: unknown families, none, targets that aren't positive, less than one draw, or a negative number.
    """

    families: tuple[str, ...] = (*(name for name in FAMILIES), *NOISES)
    targets: tuple[float, ...] = TARGETS
    draws: int = 5
    seed: int = 0
    first_draw: int = 0
    conduct: Conduct | None = field(default=None)

    def __post_init__(self) -> None:
        if not self.families or len(set(self.families)) < len(self.families):
            raise InputError(f"families must be names, each once; got {list(self.families)}")
        for name in self.families:
            if name not in NOISES:
                make_family(name, Conduct())  # refuses unknown names
        if not self.targets or not all(np.isfinite(each) and each > 0 for each in self.targets):
            raise InputError(
                f"targets must be positive displacements, 0.1 for 10 %; got {list(self.targets)}"
            )
        if not isinstance(self.draws, int) or self.draws < 1:
            raise InputError(f"draws must be a whole number, at least 1; got {self.draws!r}")
        for name in ("seed", "first_draw"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 0:
                raise InputError(f"{name} must be a whole number, at least 0; got {getattr(self, name)!r}")

    def drawn(self, name: str, conduct: Conduct) -> list[Family]:
        """A family of `nearzero.families` in all its draws; one if nothing is drawn in it."""
        first = make_family(name, conduct, self.draw_seed)
        if not first.random:
            return [first]
        return [make_family(name, conduct, self.draw_seed + draw) for draw in range(self.draws)]

    @property
    def draw_seed(self) -> int:
        """Of the first draw; those that follow have the next ones."""
        return self.seed + self.first_draw


def halves(examples: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The numbers of the examples of the reference half and of the half that responds, each ascending.

    Raises:
        InputError: fewer than two examples.
    """
    if examples < 2:
        raise InputError(f"two halves need at least two examples; got {examples}")
    order = np.random.default_rng([seed, *b"halves"]).permutation(examples)
    return np.sort(order[: examples // 2]), np.sort(order[examples // 2 :])


def matched(
    network: TwoLayer | nn.Module,
    x: Pixels | npt.ArrayLike,
    y: npt.ArrayLike | None = None,
    *,
    design: Design | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
) -> xr.Dataset:
    """How one network responds to families at levels that displace its activations equally far.

    Args:
        network: a `TwoLayer`, or a PyTorch module Linear, activation, Linear.
        x: the examples, (N, D).
        y: the labels, (N,); without them there is agreement and no accuracy.
        design: families, targets, draws; the default one if None.
        threads, memory: as for `nz.sweep`.

    Returns:
        A Dataset on (family, side, target) with the variables of `MEASURES`, NaN where a displacement isn't
        reached; `unperturbed_accuracy` of the responding half; `dead_units`; `undefined_examples`, those of the
        responding half with a = 0, for which no displacement of their own exists.

    Raises:
        InputError: as `nz.sweep`.
    """
    network, design = as_network(network), design or Design()
    conduct = design.conduct or Conduct.default([network.activation])
    if not BY_FORMULA.isdisjoint(design.families):
        conduct.check([network.activation])
    whole = HiddenLayer(network, x, threads=threads, memory=memory)
    labels = None if y is None else as_labels(y, len(whole), network.classes)
    # The products are small, and threads that wait for each other cost more than they bring.
    with threadpool_limits(limits=1, user_api="blas"):
        return _measured(whole, labels, design, conduct)


def _measured(
    whole: HiddenLayer, labels: npt.NDArray[np.int64] | None, design: Design, conduct: Conduct
) -> xr.Dataset:
    """All families on the two halves."""
    reference, responding = halves(len(whole), design.seed)
    bench = _Bench(
        whole.part(reference), whole.part(responding), None if labels is None else labels[responding], design
    )
    shape = (len(design.families), len(SIDES), len(design.targets))
    tables = {name: np.full(shape, np.nan) for name in MEASURES}
    for number, name in enumerate(design.families):
        for side, measures in bench.measure(name, conduct):
            for measure, values in measures.items():
                tables[measure][number, SIDES.index(side)] = values
    return bench.dataset(tables, conduct)


class _Bench:
    """The two halves of the examples, and what is needed of them again and again."""

    def __init__(
        self,
        reference: HiddenLayer,
        responding: HiddenLayer,
        labels: npt.NDArray[np.int64] | None,
        design: Design,
    ) -> None:
        self.reference, self.responding, self.labels, self.design = reference, responding, labels, design
        self.ranges = reference.ranges
        self.sizes = Displacements(reference, self.ranges)
        self.activations = responding.network.act(responding.z)
        self.sizes_here = np.square(self.activations[:, self.ranges.live], dtype=np.float64).sum(axis=1)
        self.speaks = self.sizes_here > 0
        self.whitening = Whitening.of(self.activations, self.ranges.live)
        logits = self._logits(self.activations)
        self.logit_energy = float(np.square(logits - logits.mean(axis=0), dtype=np.float64).sum())
        self.unperturbed = responding.unperturbed

    def measure(self, name: str, conduct: Conduct) -> Iterator[tuple[str, dict[str, Doubles]]]:
        """For each side of a family, the measures at all targets, (T,) each."""
        if name in NOISES:
            yield "above", self._noise(name)
            return
        families = self.design.drawn(name, conduct)
        if families[0].identity is None:
            return
        for side in families[0].sides:
            yield side, self._side(families, side)

    def _side(self, families: Sequence[Family], side: str) -> dict[str, Doubles]:
        """The measures of one side, averaged over draws; NaN where a draw doesn't reach the displacement."""
        parts = [self._draw(family, side, first=draw == 0) for draw, family in enumerate(families)]
        mean = {name: np.mean([part[name] for part in parts if name in part], axis=0) for name in parts[0]}
        lost = np.isnan(mean["level"])
        return {name: np.where(lost, np.nan, values) for name, values in mean.items()}

    def _draw(self, family: Family, side: str, *, first: bool) -> dict[str, Doubles]:
        found = self.sizes.match(family, side, self.design.targets)
        reached = [each.reached for each in found]
        perturbations = [family.at(each.level, self.ranges) for each in found if each.reached]
        out = {"level": _levels(found), "displacement": np.array([each.displacement for each in found])}
        if not perturbations:
            return out | {name: np.full(len(found), np.nan) for name in self._names(first=first)}
        _, sums = self.reference.changes(perturbations)
        shifts = (sums / len(self.reference)) @ self.reference.network.w2.T.astype(np.float64)
        predictions = self.responding.predict(perturbations)
        centred = [
            self._before(shift).predict([each])[0] for shift, each in zip(shifts, perturbations, strict=True)
        ]
        measured = self._shares(predictions, centred)
        if first:  # what doesn't decide anything is measured on one draw
            measured |= _columns([self._geometry(self._perturbed(each)) for each in perturbations])
        return out | {name: _spread(values, reached) for name, values in measured.items()}

    def _noise(self, shape: NoiseShape) -> dict[str, Doubles]:
        """The measures of noise on the pre-activations."""
        act, w2 = self.reference.network.act, self.reference.network.w2.astype(np.float64)
        noise = Noise.of(shape, self.reference.z, self.ranges.live, self.design.draw_seed)
        drawn, drawn_here = noise.draw(len(self.reference)), noise.draw(len(self.responding), part=1)

        def changes(level: float) -> Iterator[npt.NDArray[np.floating]]:
            for first in range(0, len(drawn), ROWS):
                z = self.reference.z[first : first + ROWS]
                yield act(z + np.float32(level) * drawn[first : first + ROWS]) - act(z)

        def size(levels: npt.ArrayLike) -> Doubles:  # dead units don't change
            energies = [sum(np.vdot(part, part) for part in changes(each)) for each in np.asarray(levels)]
            return np.sqrt(np.array(energies) / self.sizes.energy)

        found = match(size, 0.0, 8.0, self.design.targets)
        rows = [dict.fromkeys(self._names(first=True), np.nan) for _ in found]
        for row, level in ((row, each.level) for row, each in zip(rows, found, strict=True) if each.reached):
            moved = self.responding.z + np.float32(level) * drawn_here
            total = sum(part.sum(axis=0, dtype=np.float64) for part in changes(level))
            layers = self.responding, self._before(w2 @ total / len(drawn))
            shares = self._shares(*([layer.with_z(moved).unperturbed] for layer in layers))
            row |= {name: values[0] for name, values in shares.items()}
            row |= self._geometry(lambda rows, moved=moved: act(moved[rows]))  # type: ignore[misc]
        out = {"level": _levels(found), "displacement": np.array([each.displacement for each in found])}
        return out | _columns(rows)

    def _before(self, shift: Doubles) -> HiddenLayer:
        """The responding layer before output biases from which a mean logit shift is taken out."""
        return self.responding.with_b2(self.responding.network.b2 - shift)

    def _perturbed(self, perturbation: Perturbation) -> Changed:
        """a' of some rows of the responding half."""
        act, layer = self.responding.network.act, self.responding
        if perturbation.side == "post":
            return lambda rows: perturbation(self.activations[rows])
        return lambda rows: np.asarray(act(perturbation(layer.z[rows])))

    def _logits(self, activations: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        network = self.responding.network
        return np.asarray(activations @ network.w2.T + network.b2)

    def _geometry(self, changed: Changed) -> dict[str, float]:
        """Sizes of a change, in several measures."""
        count, units = self.activations.shape
        moment, squares = np.zeros((units, units)), np.empty(count)
        for first in range(0, count, ROWS):
            rows = slice(first, first + ROWS)
            change = changed(rows) - self.activations[rows]
            moment += change.T @ change
            squares[rows] = np.einsum("nu,nu->n", change, change)
        w2 = self.responding.network.w2.astype(np.float64)
        logits = float(np.einsum("ku,uv,kv->", w2, moment, w2, optimize=True))
        return {
            "displacement_here": float(np.sqrt(squares.sum() / self.sizes_here.sum())),
            "median_displacement": float(
                np.median(np.sqrt(squares[self.speaks] / self.sizes_here[self.speaks]))
            ),
            "whitened_displacement": self.whitening.displacement(moment / count),
            "logit_displacement": float(np.sqrt(max(logits, 0.0) / self.logit_energy)),
        }

    def _shares(self, predictions: Any, centred: Any) -> dict[str, Doubles]:
        """Accuracy and agreement of predictions (L, N), with and without the mean logit shift."""
        both = {"": np.asarray(predictions), "centred_": np.asarray(centred)}
        out = {}
        for prefix, each in both.items():
            out[f"{prefix}agreement"] = np.mean(each == self.unperturbed, axis=1)
            if self.labels is not None:
                out[f"{prefix}accuracy"] = np.mean(each == self.labels, axis=1)
        return out

    def _names(self, *, first: bool) -> list[str]:
        """What is measured beyond levels and displacements."""
        names = [name for name in MEASURES if name not in ("level", "displacement")]
        if self.labels is None:
            names = [name for name in names if "accuracy" not in name]
        return names if first else [name for name in names if name not in GEOMETRY]

    def dataset(self, tables: dict[str, Doubles], conduct: Conduct) -> xr.Dataset:
        """Everything as labelled arrays."""
        dims = ("family", "side", "target")
        names = ["level", "displacement", *self._names(first=True)]
        data: dict[str, Any] = {name: (dims, tables[name], {"long_name": MEASURES[name]}) for name in names}
        data["dead_units"] = ((), self.ranges.dead_units)
        data["undefined_examples"] = ((), int((~self.speaks).sum()))
        if self.labels is not None:
            data["unperturbed_accuracy"] = ((), float(np.mean(self.unperturbed == self.labels)))
        design = self.design
        coords = {"family": list(design.families), "side": list(SIDES), "target": list(design.targets)}
        attributes = {
            **asdict(conduct),
            "activation": self.responding.network.activation,
            "draws": design.draws,
            "seed": design.seed,
            "first_draw": design.first_draw,
            "examples": len(self.responding),
            "reference_examples": len(self.reference),
        }
        return xr.Dataset(data, coords, attributes)


def _levels(found: Sequence[Match]) -> Doubles:
    return np.array([each.level for each in found])


def _spread(values: npt.ArrayLike, reached: Sequence[bool]) -> Doubles:
    """Values of the targets that were reached, NaN at the others."""
    out = np.full(len(reached), np.nan)
    out[np.array(reached)] = values
    return out


def _columns(rows: Sequence[dict[str, float]]) -> dict[str, Doubles]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
