"""Near against far: replace the activations nearest to a unit's boundary, or those farthest from it.

The paper claims that features lie near z = 0. This module tests the claim directly. For each live unit
separately, the near part is the f R rows with the smallest |z|, and the far part is the f R rows with the
largest |z|. A row is an example, or a token or pixel of one. Within a part the activations are replaced:
a' = (1 - t) a + t r. All other activations stay as they are. The replaced values of the two parts differ in
size, so the parts are compared twice: at equal numbers of rows, and at equal displacement.

The displacement is linear in t: a' - a = t (r - a) within the part and 0 outside, and r doesn't depend on t.
So d(t) = sqrt(sum ||a' - a||^2 / sum ||a||^2) = t d(1). The displacement is d at t = d / d(1), without a
search, if this t is at most 1. The logits of a two-layer network are linear in t as well:
(W2 a + b2) + t W2 (r - a).

Perturbations of whole units are in `nearzero.perturbations.families`. Levels of equal displacement are in
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
from nearzero.analysis.sweep import NOT_FINITE
from nearzero.errors import InputError, did_you_mean
from nearzero.evaluators.base import NO_CLASS, SAFE, LayerEvaluator
from nearzero.evaluators.select import ModelOptions, open_evaluator
from nearzero.networks import TwoLayer
from nearzero.perturbations.perturbation import Addition, Perturbation
from nearzero.support.arrays import as_numbers
from nearzero.support.threads import parallel
from nearzero.support.words import number_of

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FRACTIONS", "PARTS", "REPLACEMENTS", "near_and_far"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
_Row = dict[str, Doubles]  # the measurements of a case, by name

PARTS = ("near", "far")
REPLACEMENTS = ("resample", "mean", "noise")
DRAWN = ("resample", "noise")  # the replacements that draw random numbers
FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.5)
CHUNK = 4096  # examples whose logits fit in the cache together


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
    """Replace a layer's activations near its units' boundaries, or far from them; return the scores.

    z and a are float32, as in a sweep. NumPy sums the logits of a two-layer network in an order of its own.
    An example whose two greatest logits nearly tie can therefore be predicted differently than in a sweep.

    Args:
        network: a `TwoLayer`, or any `torch.nn.Module`.
        x: inputs (N, D), or any data that `nz.probe` takes.
        y: the labels, (N,), if the inputs are an array. Without labels the result has the agreement but no
            accuracy.
        fractions: f, the share of the R rows in a part. The number of rows, f R, is rounded and at least one.
            A row is an example, or a token or pixel of one. Of rows with equal |z|, the first in the data
            count as nearer. The two parts overlap if f is above 0.5.
        targets: the displacements at which the parts are compared.
        replacements: what replaces the values, separately for each unit. "resample": the values of the part,
            permuted among its rows; the distribution of the unit over the part stays the same. "mean": the
            mean of the part. "noise": independent normal numbers with the mean and standard deviation of the
            part; some of them can be negative, also for ReLU.
        draws: the number of draws of "resample" and "noise". The results are means over the draws.
        seed: the seed of the draws. Each draw, part, fraction and unit has its own generator.
        threads: the number of threads; by default all that this process may use. The results don't depend on
            it.
        memory: the memory to use in addition to the inputs, for example "2 GB"; by default the value of
            `NEARZERO_MEMORY`, or 3 GB. A two-layer network needs at least 8 N K bytes for the logits of the
            two parts, and 4 N (4 + threads) bytes for a unit. Other models need 8 R U bytes for the changes
            of the two parts.
        options: the layer and other settings of models that aren't a `TwoLayer`, see
            `nearzero.evaluators.select.ModelOptions`.

    Returns:
        A Dataset. At equal numbers of rows, t = 1, on (part, replacement, fraction): `accuracy`, `agreement`
        (with the unperturbed predictions) and `displacement`. At equal displacement, on (..., target): `t`,
        `reached`, `matched_accuracy` and `matched_agreement`, which are NaN unless the part reaches the
        target by t = 1 in every draw. At `reach` (replacement, fraction), the greatest displacement that both
        parts reach, one of them at t = 1: `reach_t`, `reach_accuracy`, `reach_agreement`. `zeros` (part,
        fraction) is the share of the part's places (unit, row) with a = 0. `unchanged` (part, replacement,
        fraction) is the share of places with a' = a at t = 1; `attrs["notes"]` reports it in sentences. Also
        `dead_units` and `unperturbed_accuracy`. If no unit is live, or a = 0 everywhere, there are no parts:
        the effects are NaN, and the notes say so. If logits are NaN or infinite anywhere,
        `not_finite`, `reach_not_finite` and `matched_not_finite` count the items that have such logits, as means over
        draws; these count as wrong.

    Raises:
        InputError: shapes that don't fit, or invalid fractions, targets, replacements or draws.

    Example:
        >>> import nearzero as nz
        >>> network = nz.TwoLayer([[1.0]], [0.0], [[1.0], [0.0]], [0.0, 3.5], "relu")  # class 0 if a >= 3.5
        >>> x = [[2.0], [4.0], [6.0], [12.0]]  # near: 2 and 4 become 3; far: 6 and 12 become 9
        >>> scores = nz.near_and_far(network, x, fractions=0.5, replacements="mean").squeeze()
        >>> scores.part.values.tolist(), scores.agreement.values.tolist()
        (['near', 'far'], [0.75, 1.0])
        >>> scores.displacement.values.round(3).tolist()  # sqrt(2 / 200) and sqrt(18 / 200)
        [0.1, 0.3]
    """
    plan = _NearFarPlan(
        fractions=_numbers(fractions, "fractions", 1.0),
        targets=_numbers(targets, "targets", np.inf),
        replacements=_names(replacements),
        draws=_whole(draws, "draws", 1),
        seed=_whole(seed, "seed", 0),
    )
    with open_evaluator(network, x, y, options, threads=threads, memory=memory) as evaluator:
        live = np.flatnonzero(evaluator.ranges.live)
        evaluator.check(evaluator.conduct(None), ["cap"])  # cap, too, acts after the activation
        work = _Replacements(evaluator, live, plan)
        if not work.energy > 0:
            rows = dict.fromkeys(plan.all_cases(), work.unmeasured())
            notes = ["no unit is live, or a = 0 everywhere: nothing has a near and a far part"]
            return _dataset(rows, plan, evaluator, work.unperturbed).assign_attrs(notes=notes)
        rows = {}
        for changes in work.changes():

            def measure(case: _Case, changes=changes) -> None:  # type: ignore[no-untyped-def]
                rows[case] = work.measure(changes[case])

            # forward passes of a model must run one after the other
            parallel(measure, changes, evaluator.threads if evaluator.readout is not None else 1)
        return _dataset(rows, plan, evaluator, work.unperturbed)


@dataclass(frozen=True)
class _Case:
    """A replacement, the share of the rows that it replaces, and the number of the draw."""

    replacement: str
    fraction: float
    draw: int


@dataclass(frozen=True)
class _NearFarPlan:
    """The checked arguments of `near_and_far`."""

    fractions: tuple[float, ...]
    targets: tuple[float, ...]
    replacements: tuple[str, ...]
    draws: int
    seed: int

    def cases(self, replacement: str, fraction: float) -> list[_Case]:
        """Return one case for each draw, or a single case if the replacement draws nothing."""
        draws = self.draws if replacement in DRAWN else 1
        return [_Case(replacement, fraction, draw) for draw in range(draws)]

    def all_cases(self) -> list[_Case]:
        """Return all cases; each is applied to both parts."""
        pairs = product(self.replacements, self.fractions)
        return [case for replacement, fraction in pairs for case in self.cases(replacement, fraction)]

    def generator(self, case: _Case, part: str, size: int, unit: int) -> np.random.Generator:
        """Return the generator that draws the replacement of one unit in a part of `size` rows."""
        name = f"{part} {case.replacement}"
        return np.random.default_rng([self.seed, case.draw, size, unit, *name.encode()])


@dataclass(eq=False)
class _Change:
    """The change that a case makes to one part, summed over units.

    Attributes:
        moves: the change of the logits at t = 1, W2 (r - a), (K, R), if they are linear in the activations;
            else r - a itself, (R, U).
        energy: sum ||r - a||^2 over rows and live units.
        places: the number of places (unit, row) in the part.
        zeros: the number of its places with a = 0.
        same: the number of its places with r = a.
    """

    moves: Floats
    energy: float = 0.0
    places: int = 0
    zeros: int = 0
    same: int = 0


@dataclass(frozen=True, eq=False)
class _SortedUnits:
    """V live units on all rows, sorted by |z|.

    Attributes:
        units: (V,), the numbers of the units.
        order: (V, R), the rows of each unit by ascending |z|; of rows with equal |z|, the first comes first.
        a: (V, R), the activations in that order.
        w2: (K, V), the output weights if the logits are linear in the activations; else None.
    """

    units: npt.NDArray[np.intp]
    order: npt.NDArray[np.int32]
    a: Floats
    w2: Floats | None

    @classmethod
    def of(cls, evaluator: LayerEvaluator, units: npt.NDArray[np.intp], *, whole: bool) -> _SortedUnits:
        """Sort live units. With `whole`, all units fit in memory and `units` are all live ones."""
        sides = (evaluator.preactivations, evaluator.activations)
        z, a = (
            np.ascontiguousarray((values()[:, units] if whole else values(units)).T, dtype=np.float32)
            for values in sides
        )
        order = np.empty(z.shape, np.int32)

        def sort(place: int) -> None:
            order[place] = _by_distance(z[place])
            a[place] = a[place, order[place]]

        parallel(sort, range(len(units)), evaluator.threads)
        readout = evaluator.readout
        return cls(units, order, a, None if readout is None else np.ascontiguousarray(readout[0][:, units]))

    def add_to(self, change: _Change, plan: _NearFarPlan, case: _Case, part: str) -> None:
        """Add the contribution of these units to the change of a part."""
        rows = self.a.shape[1]
        size = max(1, int(case.fraction * rows + 0.5))
        chosen = slice(0, size) if part == "near" else slice(rows - size, rows)
        moves = np.zeros(self.a.shape, np.float32)
        for place, unit in enumerate(self.units.tolist()):
            values = self.a[place, chosen]
            move = _replaced(case.replacement, values, plan.generator(case, part, size, unit)) - values
            moves[place, self.order[place, chosen]] = move
            change.energy += float(np.square(move, dtype=np.float64).sum())
            change.zeros += int(np.count_nonzero(values == 0))
            change.same += int(np.count_nonzero(move == 0))
        change.places += size * len(self.units)
        if self.w2 is None:
            change.moves[:, self.units] = moves.T
        else:
            with np.errstate(over="ignore", invalid="ignore"):  # logits that aren't finite are counted
                change.moves += self.w2 @ moves


def _by_distance(z: Floats) -> npt.NDArray[np.int32]:
    """Return the rows by ascending |z|; of rows with equal |z|, the first comes first.

    The bits of floats that aren't negative sort like the floats. So |z| and the row number sort together as
    one whole number. The result is the same on every machine, and this is several times faster than a stable
    sort of floats.
    """
    distance = np.abs(z).view(np.uint32).astype(np.uint64)
    place = np.arange(len(z), dtype=np.uint64)
    return np.sort(distance << np.uint64(32) | place).astype(np.uint32).astype(np.int32)


def _replaced(replacement: str, values: Floats, generator: np.random.Generator) -> Floats:
    """Return r, the replacement of one unit's values (n,) in a part."""
    if replacement == "resample":
        return generator.permutation(values)
    mean = values.mean(dtype=np.float64)
    if replacement == "mean":
        return np.full_like(values, mean)
    drawn = generator.standard_normal(len(values), dtype=np.float32)
    return np.asarray(mean + values.std(dtype=np.float64) * drawn, dtype=np.float32)


class _Replacements:
    """The replacements in one layer, and the scores under them.

    Attributes:
        unperturbed: by metric, the value without replacement.
        energy: sum ||a||^2 over rows and live units.
    """

    def __init__(self, evaluator: LayerEvaluator, live: npt.NDArray[np.intp], plan: _NearFarPlan) -> None:
        self._evaluator, self._live, self._plan = evaluator, live, plan
        squares, _ = evaluator.changes([Perturbation(scale=0.0, side="post")])
        self.energy, self._rows = float(squares[0, live].sum()), len(evaluator.row_examples)
        self._base: Floats | None = None
        if evaluator.readout is None:
            self.unperturbed = evaluator.scores([], evaluator.metrics).unperturbed
            return
        self._base = np.concatenate(evaluator.gather(lambda block: block.logits)).T.copy()
        self._greatest = float(np.abs(self._base).max())
        if not self._greatest <= SAFE:
            evaluator.scores([], ["agreement"])  # refuses logits that can't be ranked
        self._steepest = float(np.sqrt(np.square(evaluator.readout[0], dtype=np.float64).sum(axis=1).max()))
        predictions = _winners(self._base)
        self._references: dict[str, npt.NDArray[Any]] = {"agreement": predictions}
        if evaluator.labels is not None:
            self._references["accuracy"] = evaluator.labels
        self.unperturbed = {
            name: float(np.mean(predictions == reference)) for name, reference in self._references.items()
        }

    def changes(self) -> Iterator[dict[_Case, dict[str, _Change]]]:
        """Yield the changes of all cases, as many cases at a time as fit in half of the memory."""
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
        """Yield the live units, as many at a time as fit in the half of the memory that `changes` doesn't use."""
        evaluator = self._evaluator
        # 4 bytes each for z in two layouts, a, the order, and the moves in each thread
        count = max(1, evaluator.limit // 2 // (4 * self._rows * (4 + evaluator.threads)))
        for first in range(0, len(self._live), count):
            yield _SortedUnits.of(
                evaluator, self._live[first : first + count], whole=count >= evaluator.units
            )

    def measure(self, changes: Mapping[str, _Change]) -> _Row:
        """Return the measurements of one case.

        Returns:
            By name, one number for each part, (2,); or (2, 2 + targets): at t = 1, at the reach, and at the
            targets.
        """
        parts = [changes[part] for part in PARTS]
        sizes = np.sqrt(np.array([change.energy for change in parts]) / self.energy)
        reach = sizes.min()
        with np.errstate(divide="ignore", invalid="ignore"):
            at_reach = np.where(sizes == reach, 1.0, reach / sizes)
            wanted = [np.ones_like(sizes), at_reach, *(target / sizes for target in self._plan.targets)]
        t = np.stack(wanted, axis=1)
        t[~(t <= 1)] = np.nan
        row = {name: np.full(t.shape, np.nan) for name in (*self.unperturbed, "not_finite")}
        row |= {"t": t, "displacement": sizes}
        for part, change in enumerate(parts):
            reached = np.flatnonzero(t[part] <= 1)
            for name, values in self._scores(change, t[part, reached]).items():
                row[name][part, reached] = values
        places = np.array([change.places for change in parts])
        row["zeros"] = np.array([change.zeros for change in parts]) / places
        row["unchanged"] = np.array([change.same for change in parts]) / places
        return row | {"reach": np.full_like(sizes, reach)}

    def unmeasured(self) -> _Row:
        """Return the measurements of a case, as `measure` does, of a layer without parts: NaN."""
        shape = len(PARTS), 2 + len(self._plan.targets)
        row = {name: np.full(shape, np.nan) for name in (*self.unperturbed, "t", "not_finite")}
        alone = ("displacement", "zeros", "unchanged", "reach")
        return row | {name: np.full(len(PARTS), np.nan) for name in alone}

    def _scores(self, change: _Change, t: Doubles) -> dict[str, Doubles]:
        """Return the metrics at each t, and how many items have logits that aren't finite, (len(t),) each."""
        if self._base is None:
            additions = [Addition(change.moves, float(level), "post") for level in t]
            scores = self._evaluator.scores(additions, self.unperturbed)
            return scores.means | {"not_finite": scores.not_finite.astype(np.float64)}
        # no logit moves by more than the greatest ||W2|| of a class times the root of the energy
        doubtful = not self._greatest + self._steepest * np.sqrt(change.energy) <= SAFE
        predictions = [self._predict(change.moves, level, doubtful=doubtful) for level in t]
        scored = {
            name: np.array([np.mean(predicted == reference) for predicted in predictions])
            for name, reference in self._references.items()
        }
        lost = [np.count_nonzero(predicted == NO_CLASS) if doubtful else 0 for predicted in predictions]
        return scored | {"not_finite": np.array(lost, dtype=np.float64)}

    def _predict(self, moves: Floats, t: float, *, doubtful: bool) -> npt.NDArray[np.uint16]:
        """Return the predictions at t, (N,), of a model whose logits are linear in t.

        doubtful: True if logits may not be finite, and are to be tested; where they aren't, it is `NO_CLASS`.
        """
        assert self._base is not None
        out = np.empty(self._base.shape[1], np.uint16)
        for first in range(0, len(out), CHUNK):
            rows = slice(first, first + CHUNK)
            with np.errstate(over="ignore", invalid="ignore"):
                logits = self._base[:, rows] + np.float32(t) * moves[:, rows]
            out[rows] = _winners(logits)
            if doubtful:
                out[rows][~np.isfinite(logits).all(axis=0)] = NO_CLASS
        return out


def _winners(logits: Floats) -> npt.NDArray[np.uint16]:
    """Return the class with the greatest of the logits (K, N), the first of equals, (N,)."""
    best = logits.max(axis=0)
    out = np.empty(len(best), np.uint16)
    for k in range(len(logits) - 1, -1, -1):  # the first of equals is written last
        np.putmask(out, logits[k] == best, k)
    return out


def _dataset(
    rows: Mapping[_Case, _Row],
    plan: _NearFarPlan,
    evaluator: LayerEvaluator,
    unperturbed: Mapping[str, float],
) -> xr.Dataset:
    """Return means over draws as labelled arrays."""

    def mean(name: str) -> Doubles:
        """Return the means of one measurement, (parts, replacements, fractions, ...)."""
        table = [
            [
                np.mean([rows[case][name] for case in plan.cases(replacement, fraction)], axis=0)
                for fraction in plan.fractions
            ]
            for replacement in plan.replacements
        ]
        return np.moveaxis(np.array(table), 2, 0)

    parts = ("part", "replacement", "fraction")
    targets = (*parts, "target")
    t = mean("t")
    data: dict[str, Any] = {
        "displacement": (parts, mean("displacement")),
        "reach": (parts[1:], mean("reach")[0]),  # the same for both parts
        "reach_t": (parts, t[..., 1]),
        "t": (targets, t[..., 2:]),
        "reached": (targets, np.isfinite(t[..., 2:])),
        "zeros": (("part", "fraction"), mean("zeros")[:, 0]),  # the same for all replacements
        "unchanged": (parts, mean("unchanged")),
        "dead_units": ((), evaluator.ranges.dead_units),
    }
    for name in unperturbed:
        values = mean(name)
        data[name], data[f"reach_{name}"] = (parts, values[..., 0]), (parts, values[..., 1])
        data[f"matched_{name}"] = (targets, values[..., 2:])
    if np.nansum(not_finite := mean("not_finite")):
        data["not_finite"] = (parts, not_finite[..., 0], NOT_FINITE)
        data["reach_not_finite"] = (parts, not_finite[..., 1], NOT_FINITE)
        data["matched_not_finite"] = (targets, not_finite[..., 2:], NOT_FINITE)
    if "accuracy" in unperturbed:
        data["unperturbed_accuracy"] = ((), unperturbed["accuracy"])
    coords = {
        "part": list(PARTS),
        "replacement": list(plan.replacements),
        "fraction": list(plan.fractions),
        "target": list(plan.targets),
    }
    attributes = {
        "activation": evaluator.activation or "none",
        "examples": len(evaluator.examples),
        "draws": plan.draws,
        "seed": plan.seed,
        "backend": evaluator.backend,
        "layer": evaluator.layer,
    }
    result = xr.Dataset(data, coords, attributes)
    return result.assign_attrs(notes=_notes(result))


def _notes(result: xr.Dataset) -> list[str]:
    """Return sentences that report the zeros in the parts and the shares of unchanged places."""
    notes: list[str] = []
    for part, fraction in product(result.part.values.tolist(), result.fraction.values.tolist()):
        selected = result.sel(part=part, fraction=fraction)
        if selected.zeros > 0:
            shares = zip(
                selected.replacement.values.tolist(), selected.unchanged.values.tolist(), strict=True
            )
            unchanged = ", ".join(f"{replacement} {100 * share:.1f} %" for replacement, share in shares)
            zeros = 100 * float(selected.zeros)
            notes.append(
                f"{part} part at {100 * fraction:g} % of the examples: a = 0 at {zeros:.1f} % of its places "
                f"(unit, row); of all its places, a' = a after: {unchanged}"
            )
    counted = []
    if "not_finite" in result:
        names = ("not_finite", "reach_not_finite", "matched_not_finite")
        most = max(float(result[name].max()) for name in names)
        counted = [f"logits are NaN or infinite for up to {number_of(int(most), 'item')}, counted as wrong"]
    if not notes:
        return [*counted, "a = 0 nowhere in the parts"]
    if result.attrs["activation"] == "relu":
        notes.insert(
            0,
            "parts go by |z|, and ReLU gives a = 0 wherever z <= 0: either part holds values from both sides of the "
            "boundary, and those from below it are all 0",
        )
    return [*counted, *notes]


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
    for name in names:
        if name not in REPLACEMENTS:
            hint = did_you_mean(name, REPLACEMENTS)
            raise InputError(f"unknown replacement {name!r}: {hint}known are {', '.join(REPLACEMENTS)}")
    if not names or len(set(names)) < len(names):
        raise InputError(f"replacements must be names, each once; got {replacements!r}")
    return names


def _whole(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name} must be a whole number, at least {least}; got {value!r}")
    return int(value)
