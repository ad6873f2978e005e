"""Responses at matched displacement: how one layer answers to families that move its activations equally far.

Unit ranges, the levels that give each displacement, and the mean shift of the logits come from one half of the
examples, the *reference*; responses from the other, so that nothing is measured on what it was set by. How halves are
cut is in `nearzero.halves`, sizes and matching are in `nearzero.displacement`, the families in `nearzero.families` and
`nearzero.noise`, what follows from many runs in `nearzero.verdict`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt
import xarray as xr
from threadpoolctl import threadpool_limits

from nearzero.displacement import TARGETS, Displacements, Match, Whitening
from nearzero.errors import InputError
from nearzero.evaluators.base import Block, LayerEvaluator
from nearzero.evaluators.select import ModelOptions, open_evaluator
from nearzero.families import FAMILIES, Conduct, Family, make_family
from nearzero.halves import RULE, halves
from nearzero.networks import TwoLayer
from nearzero.noise import NOISES, Noise
from nearzero.perturbation import Addition, AnyPerturbation

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MEASURES", "SIDES", "Design", "halves", "matched", "matched_of"]

Doubles = npt.NDArray[np.float64]
SIDES = ("below", "above")
MEASURES = {
    "level": "level that gives the displacement, mean over draws",
    "displacement": "displacement on the reference half, as matched",
    "displacement_here": "displacement on the half that responds",
    "median_displacement": "median over examples of ||a' - a|| / ||a||",
    "whitened_displacement": "displacement in the metric of the covariance of the reference half's activations",
    "logit_displacement": "sqrt(sum ||l' - l||^2 / sum ||l - mean||^2) of the logits l",
    "centred_logit_displacement": "the same, the mean logit shift of the reference half taken out of l' - l",
    "accuracy": "share of examples predicted right",
    "centred_accuracy": "the same, the mean logit shift of the reference half taken out",
    "agreement": "share of predictions that are those of the unperturbed network",
    "centred_agreement": "the same, the mean logit shift of the reference half taken out",
}
GEOMETRY = (
    "displacement_here",
    "median_displacement",
    "whitened_displacement",
    "logit_displacement",
    "centred_logit_displacement",
)


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


def matched(
    model: TwoLayer | nn.Module,
    data: Any,
    y: npt.ArrayLike | None = None,
    *,
    design: Design | None = None,
    metrics: Any = None,
    threads: int | None = None,
    memory: int | str | None = None,
    **options: Unpack[ModelOptions],
) -> xr.Dataset:
    """Return how one layer responds to families at levels that displace its activations equally far.

    Args:
        model: a `TwoLayer`, or any `torch.nn.Module`.
        data: inputs (N, D), or whatever `nz.probe` takes.
        y: the labels of inputs that come as an array, (N,); without labels there is agreement and no accuracy.
        design: families, targets, draws; the default one if None.
        metrics: names, or functions of (logits, target), as for `nz.probe`; accuracy and agreement if None.
        threads, memory: as for `nz.sweep`.
        options: the layer, and what else is to be said of the model and its data, see
            `nearzero.evaluators.select.ModelOptions`.

    Returns:
        A Dataset on (family, side, target) with the variables of `MEASURES` (those of other metrics beside or in place
        of accuracy and agreement), NaN where a displacement isn't reached; `unperturbed_<metric>` of the responding
        half; `dead_units`; `undefined_examples`, those of the responding half with a = 0, for which no displacement of
        their own exists. Its attributes say which backend measured, and by which rule the halves were cut.

    Raises:
        InputError: as `nz.sweep` and `nz.probe`.
    """
    design = design or Design()
    with open_evaluator(
        model, data, y, options, metrics=metrics, threads=threads, memory=memory
    ) as evaluator:
        return matched_of(evaluator, design)


def matched_of(evaluator: LayerEvaluator, design: Design) -> xr.Dataset:
    """Return `matched` for an evaluator that is at hand; see there."""
    conduct = evaluator.conduct(design.conduct)
    evaluator.check(conduct, design.families)
    reference, responding = evaluator.split(design.seed)
    # NumPy's products are small, and threads that wait for each other cost more than they bring
    with threadpool_limits(limits=1, user_api="blas") if evaluator.backend == "two-layer" else nullcontext():
        bench = _Bench(reference, responding, design)
        shape = (len(design.families), len(SIDES), len(design.targets))
        tables = {name: np.full(shape, np.nan) for name in bench.names}
        for number, name in enumerate(design.families):
            for side, measured in bench.measure(name, conduct):
                for measure, values in measured.items():
                    tables[measure][number, SIDES.index(side)] = values
        return bench.dataset(tables, conduct)


@dataclass(frozen=True, eq=False)
class _Sizes:
    """What activations and logits of some examples come to, and what perturbations change of them.

    Attributes:
        whole: (n,), sum ||a||^2 of each example that has rows, over these and live units.
        logits: sum over items of l, (K,), and of ||l||^2.
        items, rows: how many.
        squares: (L, n), sum ||a' - a||^2 of each example.
        whitened, logit, centred: (L,), sums over rows or items.
    """

    whole: Doubles
    logits: tuple[Doubles, float]
    items: int
    rows: int
    squares: Doubles
    whitened: Doubles
    logit: Doubles
    centred: Doubles


class _Bench:
    """The two halves of the examples, and what is needed of them again and again."""

    def __init__(self, reference: LayerEvaluator, responding: LayerEvaluator, design: Design) -> None:
        self.reference, self.responding, self.design = reference, responding, design
        self.metrics = responding.metrics
        self.ranges = reference.ranges
        self.displacements = Displacements(reference, self.ranges)
        self.unperturbed: dict[str, float] = {}
        self.items = self.undefined = 0
        self.names = ["level", "displacement", *GEOMETRY, *self._scored]

    @property
    def _scored(self) -> list[str]:
        return [f"{prefix}{name}" for name in self.metrics for prefix in ("", "centred_")]

    @cached_property
    def whitening(self) -> Whitening:
        """Return the measure of the reference half's activations."""
        return Whitening.of(self.reference.activations(), self.ranges.live)

    def measure(self, name: str, conduct: Conduct) -> Iterator[tuple[str, dict[str, Doubles]]]:
        """Return for each side of a family the measures at all targets, (T,) each."""
        if name in NOISES:
            z = self.reference.preactivations()
            noise = Noise.of(name, z, self.ranges.live, self.design.draw_seed)
            yield "above", self._noise(noise)
            return
        families = self.design.drawn(name, conduct)
        if families[0].identity is None:
            return
        for side in families[0].sides:
            yield side, self._side(families, side)

    def _side(self, families: Sequence[Family], side: str) -> dict[str, Doubles]:
        """The measures of one side, averaged over draws; NaN where a draw doesn't reach the displacement."""
        parts = []
        for draw, family in enumerate(families):
            found = self.displacements.match(family, side, self.design.targets)
            perturbations = [family.at(each.level, self.ranges) for each in found if each.reached]
            # what doesn't decide anything is measured on one draw
            parts.append(self._measured(found, perturbations, perturbations, geometry=draw == 0))
        mean = {name: np.mean([part[name] for part in parts if name in part], axis=0) for name in parts[0]}
        lost = np.isnan(mean["level"])
        return {name: np.where(lost, np.nan, values) for name, values in mean.items()}

    def _noise(self, noise: Noise) -> dict[str, Doubles]:
        """The measures of noise on the pre-activations."""
        there, here = (noise.draw(each.row_examples) for each in (self.reference, self.responding))
        found = self.displacements.match_noise(there, self.design.targets)
        levels = [each.level for each in found if each.reached]
        return self._measured(
            found,
            [Addition(there, level) for level in levels],
            [Addition(here, level) for level in levels],
            geometry=True,
        )

    def _measured(
        self,
        found: Sequence[Match],
        there: Sequence[AnyPerturbation],
        here: Sequence[AnyPerturbation],
        *,
        geometry: bool,
    ) -> dict[str, Doubles]:
        """All measures of perturbations at matched levels; `there` on the reference half, `here` on the other."""
        out = {
            "level": np.array([each.level for each in found]),
            "displacement": np.array([each.displacement for each in found]),
        }
        reached = [each.reached for each in found]
        names = [*self._scored, *(GEOMETRY if geometry else ())]
        if not here:
            return out | {name: np.full(len(found), np.nan) for name in names}
        shift = self.reference.mean_logit_change(there)
        scores = self.responding.scores(here, self.metrics, shift)
        self.unperturbed, self.items = scores.unperturbed, scores.items
        measured = {name: scores.means[name] for name in self._scored}
        if geometry:
            measured |= self._geometry(here, shift)
        return out | {name: _spread(values, reached) for name, values in measured.items()}

    def _geometry(self, perturbations: Sequence[AnyPerturbation], shift: Doubles) -> dict[str, Doubles]:
        """Sizes of changes on the responding half, in several measures, (L,) each."""
        parts = self.responding.gather(lambda block: self._sizes(block, perturbations, shift))
        whole = np.concatenate([each.whole for each in parts])
        squares = np.concatenate([each.squares for each in parts], axis=1)
        rows, items = (sum(getattr(each, name) for each in parts) for name in ("rows", "items"))
        total = np.asarray(sum(each.logits[0] for each in parts))
        spread = sum(each.logits[1] for each in parts) - float(total @ total) / items
        speaks = whole > 0
        self.undefined = int((~speaks).sum())
        whitened, logit, centred = (
            np.asarray(sum(getattr(each, name) for each in parts))
            for name in ("whitened", "logit", "centred")
        )
        return {
            "displacement_here": np.sqrt(squares.sum(axis=1) / whole.sum()),
            "median_displacement": np.median(np.sqrt(squares[:, speaks] / whole[speaks]), axis=1),
            "whitened_displacement": np.sqrt(whitened / rows / self.whitening.energy),
            "logit_displacement": np.sqrt(logit / spread),
            "centred_logit_displacement": np.sqrt(centred / spread),
        }

    def _sizes(self, block: Block, perturbations: Sequence[AnyPerturbation], shift: Doubles) -> _Sizes:
        """The sizes of one block of examples."""
        live = self.ranges.live
        # a mask may leave no rows of some examples, or of all
        present, owners = np.unique(block.row_examples, return_inverse=True)
        count = len(present)

        def by_example(rows: npt.NDArray[Any]) -> Doubles:
            own = rows if live.all() else rows[:, live]
            each = np.einsum("ru,ru->r", own, own)
            return np.asarray(np.bincount(owners, each, minlength=count), dtype=np.float64)

        squares = np.empty((len(perturbations), count))
        whitened, logit, centred = np.empty((3, len(perturbations)))
        for level, each in enumerate(perturbations):
            activations, logits = block.under(each)
            change, moved = activations - block.activations, (logits - block.logits).astype(np.float64)
            squares[level] = by_example(change)
            whitened[level] = self.whitening.squares(change)
            logit[level] = np.square(moved).sum()
            centred[level] = np.square(moved - shift[level]).sum()
        plain = block.logits.astype(np.float64)
        return _Sizes(
            by_example(block.activations), (plain.sum(axis=0), float(np.square(plain).sum())), len(plain),
            len(owners), squares, whitened, logit, centred,
        )  # fmt: skip

    def dataset(self, tables: dict[str, Doubles], conduct: Conduct) -> xr.Dataset:
        """Return everything as labelled arrays."""
        dims = ("family", "side", "target")
        data: dict[str, Any] = {
            name: (dims, table, {"long_name": MEASURES[name]} if name in MEASURES else {})
            for name, table in tables.items()
        }
        data["dead_units"] = ((), self.ranges.dead_units)
        if not self.items:  # no displacement was reached
            scores = self.responding.scores([], self.metrics)
            self.unperturbed, self.items = scores.unperturbed, scores.items
            self._geometry([], np.empty((0, 1)))
        data["undefined_examples"] = ((), self.undefined)
        for name, value in self.unperturbed.items():
            if not name.startswith("centred_") and name != "agreement":
                data[f"unperturbed_{name}"] = ((), value)
        design = self.design
        coords = {"family": list(design.families), "side": list(SIDES), "target": list(design.targets)}
        attributes = {
            **asdict(conduct),
            "activation": self.responding.activation or "none",
            "backend": self.responding.backend,
            "layer": self.responding.layer,
            "halves": RULE if self.responding.halves == "example" else RULE.replace("examples", "batches"),
            "draws": design.draws,
            "seed": design.seed,
            "first_draw": design.first_draw,
            "examples": len(self.responding.examples),
            "reference_examples": len(self.reference.examples),
            "items": self.items,
        }
        return xr.Dataset(data, coords, attributes)


def _spread(values: npt.ArrayLike, reached: Sequence[bool]) -> Doubles:
    """Values of the targets that were reached, NaN at the others."""
    out = np.full(len(reached), np.nan)
    out[np.array(reached)] = values
    return out
