"""Near zero against far out: what the values near a unit's boundary are worth, and those far from it.

The paper's claim is about where on z the features lie: near zero. Here that is asked directly. For each live unit by
itself, its part is the f R rows with the smallest |z| ("near") or the largest ("far"); a row is an example, or a token
or pixel of one. Within the part the activations are replaced, a' = (1 - t) a + t r, and all else stays. What is
replaced differs in number and in size, so there are two comparisons: at equal numbers of rows, and at equal
displacement.

Displacement is linear in t: a' - a = t (r - a) within the part and 0 outside, and r doesn't depend on t. So
d(t) = sqrt(sum ||a' - a||^2 / sum ||a||^2) = t d(1), and a displacement d is had at t = d / d(1), without a search,
if that is at most 1. The logits of a two-layer network are linear in t as well: (W2 a + b2) + t W2 (r - a).

Perturbations of whole units are in `nearzero.perturbations.families`; levels matched to a size, in
`nearzero.analysis.matched`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.analysis.displacement import TARGETS
from nearzero.errors import InputError
from nearzero.evaluators.base import LayerEvaluator
from nearzero.evaluators.select import ModelOptions, open_evaluator
from nearzero.networks import TwoLayer
from nearzero.perturbations.perturbation import Addition, Perturbation
from nearzero.support.arrays import as_numbers
from nearzero.support.threads import parallel

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FRACTIONS", "PARTS", "REPLACEMENTS", "near_and_far"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
_Row = dict[str, Doubles]  # what a case comes to, by name

PARTS = ("near", "far")
REPLACEMENTS = ("resample", "mean", "noise")
DRAWN = ("resample", "noise")
FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.5)
CHUNK = 4096  # examples whose logits are in cache together


def near_and_far(
    network: TwoLayer | nn.Module,
    x: Any,
    y: npt.ArrayLike | None = None,
    *,
    fractions: Sequence[float] = FRACTIONS,
    targets: Sequence[float] = TARGETS,
    replacements: Sequence[str] = REPLACEMENTS,
    draws: int = 3,
    seed: int = 0,
    threads: int | None = None,
    memory: int | str | None = None,
    **options: Unpack[ModelOptions],
) -> xr.Dataset:
    """Replace what a layer's units say near their boundaries, or far from them, and see what the model predicts.

    z and a are float32, as in a sweep. Logits of a two-layer network are summed by NumPy, in an order of its own, so
    that examples whose two greatest logits nearly tie may be predicted otherwise than in a sweep.

    Args:
        network: a `TwoLayer`, or any `torch.nn.Module`.
        x: inputs (N, D), or whatever `nz.probe` takes as data.
        y: the labels of inputs that come as an array, (N,); without labels there is agreement and no accuracy.
        fractions: f, the shares of the rows that a part holds: f R, rounded, at least one, of each unit. A row is an
            example, or a token or pixel of one. Of equal |z| the first in the data are the nearer. Above 0.5 the two
            parts overlap.
        targets: the displacements at which the parts are compared.
        replacements: what values are replaced by, unit by unit. "resample": the part's own values, permuted among
            its rows, so that the unit's values over the part stay the same and only whose they are changes.
            "mean": their mean. "noise": independent normal numbers with their mean and standard deviation (which
            are negative at times, also for ReLU).
        draws: how many times a resample and noise are drawn; results are means over these.
        seed: of what is drawn. Each draw, part, fraction and unit has a generator of its own.
        threads: how many to use; all that this process may use unless given. The results don't depend on it.
        memory: what it may take besides the inputs, "2 GB" say; `NEARZERO_MEMORY` or 3 GB unless given. Of a two-layer
            network it takes at the least 8 N K bytes for the logits of two parts, and 4 N (4 + threads) for a unit; of
            other models, 8 R U for the changes of two parts.
        options: of other models the layer, and what else is to be said, see
            `nearzero.evaluators.select.ModelOptions`.

    Returns:
        A Dataset. At equal numbers, t = 1, on (part, replacement, fraction): `accuracy`, `agreement` (with the
        unperturbed predictions) and `displacement`. At equal displacement, on (..., target): `t`, `reached`,
        `matched_accuracy` and `matched_agreement`; NaN where the part doesn't reach the target at t = 1, in any of
        the draws. At `reach` (replacement, fraction), the greatest displacement that both parts reach, one of them
        at t = 1: `reach_t`, `reach_accuracy`, `reach_agreement`. `zeros` (part, fraction) is the share of the
        part's places (unit, row) where a = 0; `unchanged` (part, replacement, fraction), that of places where
        a' = a at t = 1; `attrs["notes"]` says it in words. Also `dead_units`, `unperturbed_accuracy`.

    Raises:
        InputError: shapes that don't fit, fractions, targets, replacements or draws that can't be, or no live unit.
    """
    plan = _NearFarPlan(
        _numbers(fractions, "fractions", 1.0), _numbers(targets, "targets", np.inf), _names(replacements),
        _whole(draws, "draws", 1), _whole(seed, "seed", 0),
    )  # fmt: skip
    with open_evaluator(network, x, y, options, threads=threads, memory=memory) as evaluator:
        live = np.flatnonzero(evaluator.ranges.live)
        if not live.size:
            raise InputError(
                "no unit is live on these examples (each gives one value for all), so none has parts"
            )
        evaluator.check(evaluator.conduct(None), ["cap"])  # which acts after the activation too
        work = _Replacements(evaluator, live, plan)
        found: dict[_Case, _Row] = {}
        for changes in work.changes():

            def measure(case: _Case, changes=changes) -> None:  # type: ignore[no-untyped-def]
                found[case] = work.measure(changes[case])

            # a model's passes go one at a time
            parallel(measure, changes, evaluator.threads if evaluator.readout is not None else 1)
        return _dataset(found, plan, evaluator, work.unperturbed)


@dataclass(frozen=True)
class _Case:
    """One way of replacing: by what, in how large a share of the examples, and which draw."""

    replacement: str
    fraction: float
    draw: int


@dataclass(frozen=True)
class _NearFarPlan:
    """What is done."""

    fractions: tuple[float, ...]
    targets: tuple[float, ...]
    replacements: tuple[str, ...]
    draws: int
    seed: int

    def cases(self, replacement: str, fraction: float) -> list[_Case]:
        """The draws; one where nothing is drawn."""
        draws = self.draws if replacement in DRAWN else 1
        return [_Case(replacement, fraction, draw) for draw in range(draws)]

    def all_cases(self) -> list[_Case]:
        """Everything that is done to each of the two parts."""
        both = product(self.replacements, self.fractions)
        return [case for replacement, fraction in both for case in self.cases(replacement, fraction)]

    def generator(self, case: _Case, part: str, size: int, unit: int) -> np.random.Generator:
        """What one unit's replacement is drawn from."""
        name = f"{part} {case.replacement}"
        return np.random.default_rng([self.seed, case.draw, size, unit, *name.encode()])


@dataclass(eq=False)
class _Change:
    """What a case does to one part.

    Attributes:
        moves: where the logits are linear in the activations, their change at t = 1, W2 (r - a), (K, R); else r - a
            itself, (R, U).
        energy: sum ||r - a||^2 over rows and live units.
        places, zeros, same: how many places (unit, row) the part has; at how many a = 0, and r = a.
    """

    moves: Floats
    energy: float = 0.0
    places: int = 0
    zeros: int = 0
    same: int = 0


@dataclass(frozen=True, eq=False)
class _SortedUnits:
    """Some live units on all rows.

    Attributes:
        units: (V,) their numbers.
        order: (V, R), the rows of each unit by |z|, ascending, of equals the first before the others.
        a: (V, R), the activations, in that order.
        w2: (K, V), where the logits are linear in the activations; else None.
    """

    units: npt.NDArray[np.intp]
    order: npt.NDArray[np.int32]
    a: Floats
    w2: Floats | None

    @classmethod
    def of(cls, evaluator: LayerEvaluator, units: npt.NDArray[np.intp], *, whole: bool) -> _SortedUnits:
        """Sort some live units; `whole` says that these are all live ones, and that all units fit in memory."""
        both = (evaluator.preactivations, evaluator.activations)
        z, a = (
            np.ascontiguousarray((each()[:, units] if whole else each(units)).T, dtype=np.float32)
            for each in both
        )
        order = np.empty(z.shape, np.int32)

        def sort(row: int) -> None:
            order[row] = _by_distance(z[row])
            a[row] = a[row, order[row]]

        parallel(sort, range(len(units)), evaluator.threads)
        readout = evaluator.readout
        return cls(units, order, a, None if readout is None else np.ascontiguousarray(readout[0][:, units]))

    def add_to(self, change: _Change, plan: _NearFarPlan, case: _Case, part: str) -> None:
        """Add to a change what these units contribute."""
        examples = self.a.shape[1]
        size = max(1, int(case.fraction * examples + 0.5))
        chosen = slice(0, size) if part == "near" else slice(examples - size, examples)
        moves = np.zeros(self.a.shape, np.float32)
        for row, unit in enumerate(self.units.tolist()):
            values = self.a[row, chosen]
            move = _replaced(case.replacement, values, plan.generator(case, part, size, unit)) - values
            moves[row, self.order[row, chosen]] = move
            change.energy += float(np.square(move, dtype=np.float64).sum())
            change.zeros += int(np.count_nonzero(values == 0))
            change.same += int(np.count_nonzero(move == 0))
        change.places += size * len(self.units)
        if self.w2 is None:
            change.moves[:, self.units] = moves.T
        else:
            change.moves += self.w2 @ moves


def _by_distance(z: Floats) -> npt.NDArray[np.int32]:
    """The examples by |z|, ascending, of equals the first before the others.

    Floats that aren't negative have the order of their bits, so that |z| and place sort as one whole number: the same
    on every machine, and several times faster than a stable sort of floats.
    """
    distance = np.abs(z).view(np.uint32).astype(np.uint64)
    place = np.arange(len(z), dtype=np.uint64)
    return np.sort(distance << np.uint64(32) | place).astype(np.uint32).astype(np.int32)


def _replaced(replacement: str, values: Floats, generator: np.random.Generator) -> Floats:
    """r, what a part's values (n,) of one unit are replaced by."""
    if replacement == "resample":
        return generator.permutation(values)
    mean = values.mean(dtype=np.float64)
    if replacement == "mean":
        return np.full_like(values, mean)
    drawn = generator.standard_normal(len(values), dtype=np.float32)
    return np.asarray(mean + values.std(dtype=np.float64) * drawn, dtype=np.float32)


class _Replacements:
    """One layer's live units on all rows, and what is done to them.

    Attributes:
        unperturbed: by metric, without replacement.
    """

    def __init__(self, evaluator: LayerEvaluator, live: npt.NDArray[np.intp], plan: _NearFarPlan) -> None:
        self._evaluator, self._live, self._plan = evaluator, live, plan
        squares, _ = evaluator.changes([Perturbation(scale=0.0, side="post")])
        self._energy, self._rows = float(squares[0, live].sum()), len(evaluator.row_examples)
        self._base: Floats | None = None
        if evaluator.readout is None:
            self.unperturbed = evaluator.scores([], evaluator.metrics).unperturbed
            return
        self._base = np.concatenate(evaluator.gather(lambda block: block.logits)).T.copy()
        predictions = _winners(self._base)
        self._references: dict[str, npt.NDArray[Any]] = {"agreement": predictions}
        if evaluator.labels is not None:
            self._references["accuracy"] = evaluator.labels
        self.unperturbed = {
            name: float(np.mean(predictions == each)) for name, each in self._references.items()
        }

    def changes(self) -> Iterator[dict[_Case, dict[str, _Change]]]:
        """What each case does to each part; as many cases at a time as fit in half of the memory."""
        evaluator, cases = self._evaluator, self._plan.all_cases()
        shape = (self._rows, evaluator.units) if self._base is None else self._base.shape
        count = max(1, evaluator.limit // 2 // (len(PARTS) * 4 * int(np.prod(shape))))
        for first in range(0, len(cases), count):
            group = {
                case: {part: _Change(np.zeros(shape, np.float32)) for part in PARTS}
                for case in cases[first : first + count]
            }
            for units in self._units():

                def work(job: tuple[_Case, str], group=group, units=units) -> None:  # type: ignore[no-untyped-def]
                    units.add_to(group[job[0]][job[1]], self._plan, *job)

                parallel(work, product(group, PARTS), evaluator.threads)
            yield group

    def _units(self) -> Iterator[_SortedUnits]:
        """The live units, as many at a time as fit in the other half."""
        evaluator = self._evaluator
        # z in two layouts, a and the order, and in each thread the moves; 4 bytes each
        count = max(1, evaluator.limit // 2 // (4 * self._rows * (4 + evaluator.threads)))
        for first in range(0, len(self._live), count):
            yield _SortedUnits.of(
                evaluator, self._live[first : first + count], whole=count >= evaluator.units
            )

    def measure(self, changes: Mapping[str, _Change]) -> _Row:
        """What one case does: by name, (parts,) numbers or (parts, 2 + targets) at t = 1, the reach, the targets."""
        both = [changes[part] for part in PARTS]
        sizes = np.sqrt(np.array([change.energy for change in both]) / self._energy)
        reach = sizes.min()
        with np.errstate(divide="ignore", invalid="ignore"):
            at_reach = np.where(sizes == reach, 1.0, reach / sizes)
            wanted = [np.ones_like(sizes), at_reach, *(each / sizes for each in self._plan.targets)]
        t = np.stack(wanted, axis=1)
        t[~(t <= 1)] = np.nan
        row = {name: np.full(t.shape, np.nan) for name in self.unperturbed} | {"t": t, "displacement": sizes}
        for part, change in enumerate(both):
            reached = np.flatnonzero(t[part] <= 1)
            for name, values in self._scores(change, t[part, reached]).items():
                row[name][part, reached] = values
        places = np.array([change.places for change in both])
        row["zeros"] = np.array([change.zeros for change in both]) / places
        row["unchanged"] = np.array([change.same for change in both]) / places
        return row | {"reach": np.full_like(sizes, reach)}

    def _scores(self, change: _Change, t: Doubles) -> dict[str, Doubles]:
        """The metrics at some t, (len(t),) each."""
        if self._base is None:
            additions = [Addition(change.moves, float(each), "post") for each in t]
            return self._evaluator.scores(additions, self.unperturbed).means
        predictions = [self._predict(change.moves, each) for each in t]
        return {
            name: np.array([np.mean(each == reference) for each in predictions])
            for name, reference in self._references.items()
        }

    def _predict(self, moves: Floats, t: float) -> npt.NDArray[np.uint16]:
        """(N,): the predictions at t, where the logits are linear in it."""
        assert self._base is not None
        out = np.empty(self._base.shape[1], np.uint16)
        for first in range(0, len(out), CHUNK):
            rows = slice(first, first + CHUNK)
            out[rows] = _winners(self._base[:, rows] + np.float32(t) * moves[:, rows])
        return out


def _winners(logits: Floats) -> npt.NDArray[np.uint16]:
    """(N,): the class with the greatest of the logits (K, N), the first of equals."""
    best = logits.max(axis=0)
    out = np.empty(len(best), np.uint16)
    for k in range(len(logits) - 1, -1, -1):  # the first of equals is written last
        np.putmask(out, logits[k] == best, k)
    return out


def _dataset(
    found: Mapping[_Case, _Row],
    plan: _NearFarPlan,
    evaluator: LayerEvaluator,
    unperturbed: Mapping[str, float],
) -> xr.Dataset:
    """Means over draws, as labelled arrays."""

    def mean(name: str) -> Doubles:
        """(parts, replacements, fractions, ...)."""
        table = [
            [np.mean([found[case][name] for case in plan.cases(*both)], axis=0) for both in row]
            for row in ([(each, fraction) for fraction in plan.fractions] for each in plan.replacements)
        ]
        return np.moveaxis(np.array(table), 2, 0)

    parts = ("part", "replacement", "fraction")
    targets = (*parts, "target")
    t = mean("t")
    data: dict[str, Any] = {
        "displacement": (parts, mean("displacement")),
        "reach": (parts[1:], mean("reach")[0]),  # one for both parts
        "reach_t": (parts, t[..., 1]),
        "t": (targets, t[..., 2:]),
        "reached": (targets, np.isfinite(t[..., 2:])),
        "zeros": (("part", "fraction"), mean("zeros")[:, 0]),  # whatever they're replaced by
        "unchanged": (parts, mean("unchanged")),
        "dead_units": ((), evaluator.ranges.dead_units),
    }
    for name in unperturbed:
        values = mean(name)
        data[name], data[f"reach_{name}"] = (parts, values[..., 0]), (parts, values[..., 1])
        data[f"matched_{name}"] = (targets, values[..., 2:])
    if "accuracy" in unperturbed:
        data["unperturbed_accuracy"] = ((), unperturbed["accuracy"])
    coords = {
        "part": list(PARTS), "replacement": list(plan.replacements), "fraction": list(plan.fractions),
        "target": list(plan.targets),
    }  # fmt: skip
    attributes = {
        "activation": evaluator.activation or "none", "examples": len(evaluator.examples), "draws": plan.draws,
        "seed": plan.seed, "backend": evaluator.backend, "layer": evaluator.layer,
    }  # fmt: skip
    result = xr.Dataset(data, coords, attributes)
    return result.assign_attrs(notes=_notes(result))


def _notes(result: xr.Dataset) -> list[str]:
    """In words, where the activation is exactly 0 within the parts, and how much of them stays as it was."""
    notes = []
    for part, fraction in product(result.part.values.tolist(), result.fraction.values.tolist()):
        here = result.sel(part=part, fraction=fraction)
        if here.zeros > 0:
            same = zip(here.replacement.values.tolist(), here.unchanged.values.tolist(), strict=True)
            left = ", ".join(f"{replacement} {100 * share:.1f} %" for replacement, share in same)
            notes.append(
                f"{part} part at {100 * fraction:g} % of the examples: a = 0 at {100 * float(here.zeros):.1f} % of its "
                f"places (unit, row); of all its places, a' = a after: {left}"
            )
    if not notes:
        return ["a = 0 nowhere in the parts"]
    if result.attrs["activation"] == "relu":
        notes.insert(
            0,
            "parts go by |z|, and ReLU gives a = 0 wherever z <= 0: either part holds values from both sides of the "
            "boundary, and those from below it are all 0",
        )
    return notes


def _numbers(values: Any, name: str, greatest: float) -> tuple[float, ...]:
    array = np.atleast_1d(as_numbers(values, name)).astype(np.float64)
    valid = (array > 0) & (array <= greatest) & np.isfinite(array)
    if array.ndim != 1 or not array.size or not valid.all():
        limit = f"above 0 and at most {greatest:g}" if np.isfinite(greatest) else "above 0 and finite"
        raise InputError(f"{name} must be numbers {limit}, at least one; got {values!r}")
    if len(np.unique(array)) < array.size:
        raise InputError(f"{name} must differ from each other; got {values!r}")
    return tuple(array.tolist())


def _names(replacements: Any) -> tuple[str, ...]:
    names = (replacements,) if isinstance(replacements, str) else tuple(replacements)
    if not names or len(set(names)) < len(names) or not set(names) <= set(REPLACEMENTS):
        raise InputError(
            f"replacements must be some of {', '.join(REPLACEMENTS)}, each once; got {replacements!r}"
        )
    return names


def _whole(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name} must be a whole number, at least {least}; got {value!r}")
    return int(value)
