"""Responses at matched displacement: how one layer answers to families that move its activations equally far.

Unit ranges, the levels that give each displacement, and the mean shift of the logits come from one half of the
examples, the *reference*; responses from the other, so that nothing is measured on what it was set by. How halves are
cut is in `nearzero.evaluators.base`, sizes and matching are in `nearzero.analysis.displacement`, the families in
`nearzero.perturbations.families` and `nearzero.perturbations.noise`, what follows from many runs in
`nearzero.analysis.verdict`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt
import xarray as xr
from threadpoolctl import threadpool_limits

from nearzero.analysis.displacement import TARGETS, Displacements, Match, Whitening
from nearzero.analysis.sweep import unperturbed_variables
from nearzero.errors import InputError
from nearzero.evaluators.base import HALVES, Block, LayerEvaluator
from nearzero.evaluators.select import ModelOptions, open_evaluator
from nearzero.networks import TwoLayer
from nearzero.perturbations.families import FAMILIES, Conduct, Family, make_family
from nearzero.perturbations.noise import NOISES, Noise
from nearzero.perturbations.perturbation import Addition, AnyPerturbation

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MEASURES", "SIDES", "Design", "matched", "matched_of"]

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
LEVELS = ("level", "displacement")
MOST_WHITENED = 4096  # live units, beyond which the whitened displacement is NaN


@dataclass(frozen=True, kw_only=True)
class Design:
    """What is measured at matched displacement.

    Attributes:
        families: names of `nearzero.perturbations.families` and `nearzero.perturbations.noise`.
        targets: the displacements, 0.1 for 10 %.
        draws: of each family in which something is drawn for each unit; noise, drawn for each example, is drawn once.
        seed: of the draws, and of which examples are the reference.
        first_draw: the number of the first draw. Runs of one model should have draws of their own (number of the run
            times draws, say): what a draw costs is then no part of what the runs have in common.
        conduct: the reading of the protocol; `Conduct.default` of the activation if None.

    Raises:
        InputError: unknown families, none, targets that aren't positive, less than one draw, or a negative number.
    """

    families: tuple[str, ...] = (*FAMILIES, *NOISES)
    targets: tuple[float, ...] = TARGETS
    draws: int = 5
    seed: int = 0
    first_draw: int = 0
    conduct: Conduct | None = None

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
        for name, least in (("draws", 1), ("seed", 0), ("first_draw", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InputError(f"{name} must be a whole number, at least {least}; got {value!r}")

    def drawn(self, name: str, conduct: Conduct) -> list[Family]:
        """A family of `nearzero.perturbations.families` in all its draws; one if nothing is drawn in it."""
        draws = self.draws if make_family(name, conduct).random else 1
        return [make_family(name, conduct, self.draw_seed + draw) for draw in range(draws)]

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
        of accuracy and agreement), NaN where a displacement isn't reached, and for the whitened displacement of more
        than 4,096 live units; `unperturbed_<metric>` of the responding half; `dead_units`; `undefined_examples`, those
        of the responding half with a = 0, for which no displacement of their own exists. Its attributes say which
        backend measured, and by which rule the halves were cut.

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
    # NumPy's products are small, and threads that wait for each other cost more than they bring
    with threadpool_limits(limits=1, user_api="blas") if evaluator.backend == "two-layer" else nullcontext():
        return _MatchedHalves(*evaluator.split(design.seed), design, conduct).dataset()


@dataclass(frozen=True, eq=False)
class _MatchedDraw:
    """One draw of a family on one side, and the levels of all displacements.

    Attributes:
        place: the numbers of the family and of the side.
        draw: its number.
        found: a level for each displacement.
        there, here: the perturbations at the levels that were reached, of the reference half and of the other.
    """

    place: tuple[int, int]
    draw: int
    found: Sequence[Match]
    there: Sequence[AnyPerturbation]
    here: Sequence[AnyPerturbation]

    def spread(self, values: Doubles) -> Doubles:
        """Return values of the levels that were reached, with NaN at the others, (T,)."""
        out = np.full(len(self.found), np.nan)
        out[[each.reached for each in self.found]] = values
        return out


class _MatchedHalves:
    """The two halves of the examples, and what is measured on them, in few passes over the data."""

    def __init__(
        self, reference: LayerEvaluator, responding: LayerEvaluator, design: Design, conduct: Conduct
    ) -> None:
        self.reference, self.responding, self.design, self.conduct = reference, responding, design, conduct
        self.ranges = reference.ranges

    @cached_property
    def whitening(self) -> Whitening | None:
        """Return the measure of the reference half's activations; None where its matrices are too large."""
        if self.ranges.live.sum() > MOST_WHITENED:
            return None
        return Whitening.of(self.reference.activations(), self.ranges.live)

    def conditions(self) -> Iterator[_MatchedDraw]:
        """Return every draw of every family on each of its sides."""
        sizes, targets = Displacements(self.reference, self.ranges), self.design.targets
        for number, name in enumerate(self.design.families):
            if name in NOISES:
                z, seed = self.reference.preactivations(), self.design.draw_seed
                noise = Noise.of(name, z, self.ranges.live, seed)
                there, here = (noise.draw(each.row_examples) for each in (self.reference, self.responding))
                found = sizes.match_noise(there, targets)
                levels = [each.level for each in found if each.reached]
                halves = ([Addition(drawn, level) for level in levels] for drawn in (there, here))
                yield _MatchedDraw((number, SIDES.index("above")), 0, found, *halves)
                continue
            for draw, family in enumerate(self.design.drawn(name, self.conduct)):
                for side in family.sides if family.identity is not None else ():
                    found = sizes.match(family, side, targets)
                    both = [family.at(each.level, self.ranges) for each in found if each.reached]
                    yield _MatchedDraw((number, SIDES.index(side)), draw, found, both, both)

    def dataset(self) -> xr.Dataset:
        """Return everything as labelled arrays."""
        conditions = list(self.conditions())
        there = [each for one in conditions for each in one.there]
        here = [each for one in conditions for each in one.here]
        shift = self.reference.mean_logit_change(there)
        scores = self.responding.scores(here, self.responding.metrics, shift)
        first = np.array([one.draw == 0 for one in conditions for _ in one.here], np.bool_)
        # what doesn't decide anything is measured on one draw
        sizes, undefined = self._geometry(list(compress(here, first)), shift[first])
        names = [f"{prefix}{name}" for name in self.responding.metrics for prefix in ("", "centred_")]
        measured = {name: scores.means[name] for name in names}
        for name, values in sizes.items():
            measured[name] = np.full(len(here), np.nan)
            measured[name][first] = values
        tables = self._tables(conditions, measured, sizes)
        dims = ("family", "side", "target")
        data: dict[str, Any] = {
            name: (dims, table, {"long_name": MEASURES[name]} if name in MEASURES else {})
            for name, table in tables.items()
        }
        data |= {"dead_units": ((), self.ranges.dead_units), "undefined_examples": ((), undefined)}
        design, responding = self.design, self.responding
        data |= unperturbed_variables(scores, responding.metrics)
        coords = {"family": list(design.families), "side": list(SIDES), "target": list(design.targets)}
        attributes = {
            **asdict(self.conduct),
            "activation": responding.activation or "none",
            "backend": responding.backend,
            "layer": responding.layer,
            "halves": HALVES if responding.halves == "example" else HALVES.replace("examples", "batches"),
            "draws": design.draws,
            "seed": design.seed,
            "first_draw": design.first_draw,
            "examples": len(responding.examples),
            "reference_examples": len(self.reference.examples),
            "items": scores.items,
        }
        return xr.Dataset(data, coords, attributes)

    def _tables(
        self, conditions: Sequence[_MatchedDraw], measured: Mapping[str, Doubles], once: Container[str]
    ) -> dict[str, Doubles]:
        """Means over draws, (family, side, target); NaN where a draw doesn't reach the displacement.

        What is measured `once` is that of the first draw.
        """
        shape = len(self.design.families), len(SIDES), len(self.design.targets)
        tables = {name: np.full(shape, np.nan) for name in (*LEVELS, *measured)}
        done = 0
        rows: defaultdict[tuple[int, int], list[dict[str, Doubles]]] = defaultdict(list)
        for one in conditions:
            part = slice(done, done := done + len(one.here))
            row = {name: np.array([getattr(each, name) for each in one.found]) for name in LEVELS}
            row |= {name: one.spread(values[part]) for name, values in measured.items()}
            rows[one.place].append(row)
        for place, draws in rows.items():
            lost = np.isnan(np.mean([row["level"] for row in draws], axis=0))
            for name, table in tables.items():
                some = draws[:1] if name in once else draws
                table[place] = np.where(lost, np.nan, np.mean([row[name] for row in some], axis=0))
        return tables

    def _geometry(
        self, perturbations: Sequence[AnyPerturbation], shift: Doubles
    ) -> tuple[dict[str, Doubles], int]:
        """Sizes of changes on the responding half, in several measures, (L,) each; and how many examples have a = 0."""
        parts = self.responding.gather(lambda block: self._sizes(block, perturbations, shift))
        whole = np.concatenate([own for own, _, _ in parts])
        squares = np.concatenate([own for _, own, _ in parts], axis=1)
        total = {name: sum(sums[name] for _, _, sums in parts) for name in parts[0][2]}
        spread = total["energy"] - float(total["logits"] @ total["logits"]) / total["items"]
        speaks = whole > 0
        found = {
            "displacement_here": np.sqrt(squares.sum(axis=1) / whole.sum()),
            "median_displacement": np.median(np.sqrt(squares[:, speaks] / whole[speaks]), axis=1),
            "whitened_displacement": np.sqrt(
                total["whitened"] / total["rows"] / (self.whitening.energy if self.whitening else 1.0)
            ),
            "logit_displacement": np.sqrt(total["moved"] / spread),
            "centred_logit_displacement": np.sqrt(total["centred"] / spread),
        }
        return found, int((~speaks).sum())

    def _sizes(
        self, block: Block, perturbations: Sequence[AnyPerturbation], shift: Doubles
    ) -> tuple[Doubles, Doubles, dict[str, Any]]:
        """The sizes of one block of examples.

        Returns:
            sum ||a||^2 of each example that has rows, (n,), and sum ||a' - a||^2, (L, n), over these and live units;
            and what is summed over rows or items, by name: `whitened`, `moved` (of the logits) and `centred`, (L,);
            `logits`, (K,), and `energy`, the sums of l and ||l||^2.
        """
        live = self.ranges.live
        # a mask may leave no rows of some examples, or of all
        present, owners = np.unique(block.row_examples, return_inverse=True)
        count = len(present)

        def by_example(rows: npt.NDArray[Any]) -> Doubles:
            own = rows if live.all() else rows[:, live]
            each = np.einsum("ru,ru->r", own, own)
            return np.asarray(np.bincount(owners, each, minlength=count), dtype=np.float64)

        squares = np.empty((len(perturbations), count))
        whitened, moved, centred = np.empty((3, len(perturbations)))
        for level, each in enumerate(perturbations):
            activations, logits = block.under(each)
            change, step = activations - block.activations, (logits - block.logits).astype(np.float64)
            squares[level] = by_example(change)
            whitened[level] = self.whitening.squares(change) if self.whitening is not None else np.nan
            moved[level] = np.square(step).sum()
            centred[level] = np.square(step - shift[level]).sum()
        plain = block.logits.astype(np.float64)
        sums = {
            "logits": plain.sum(axis=0), "energy": float(np.square(plain).sum()), "items": len(plain),
            "rows": len(owners), "whitened": whitened, "moved": moved, "centred": centred,
        }  # fmt: skip
        return by_example(block.activations), squares, sums
