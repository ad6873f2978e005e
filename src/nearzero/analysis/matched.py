"""Responses at matched displacement: scores under families that move a layer's activations equally far.

The examples are cut in two halves. The *reference half* gives the unit ranges, the levels for each
displacement and the mean shift of the logits. The other half, the *responding half*, gives the responses. So
nothing is measured on the examples that set the levels. `nearzero.evaluators.base` describes how the halves
are cut, `nearzero.analysis.displacement` computes displacements and matches levels, the families are in
`nearzero.perturbations.families` and `nearzero.perturbations.noise`, and `nearzero.analysis.verdict` draws
conclusions from many runs.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.analysis.displacement import (
    LARGEST_TARGET,
    SIDES,
    TARGETS,
    Displacements,
    Match,
    OtherSizes,
    UndefinedSizeError,
    Whitening,
)
from nearzero.analysis.sweep import NOT_FINITE, unperturbed_variables
from nearzero.errors import InputError, check_choice, did_you_mean
from nearzero.evaluators.base import HALVES, Block, LayerEvaluator, Scores
from nearzero.evaluators.select import ModelOptions, open_evaluator
from nearzero.networks import TwoLayer
from nearzero.perturbations.families import FAMILIES, Conduct, Family, make_family
from nearzero.perturbations.noise import NOISES, Noise
from nearzero.perturbations.perturbation import Addition, AnyPerturbation, Perturbation
from nearzero.support.names import check_number_of_labels
from nearzero.support.threads import one_blas_thread

if TYPE_CHECKING:
    from torch import nn

__all__ = ["HELD_OUT", "MEASURES", "SIZE_CHECKS", "Design", "draw_number", "matched", "matched_of"]

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
MEASURES = {
    "level": "level that gives the displacement, mean over draws",
    "displacement": "displacement on the reference half, as matched",
    "displacement_here": "displacement on the half that responds",
    "median_displacement": "median over examples of ||a' - a|| / ||a||",
    "whitened_displacement": "displacement in the metric of the covariance of the reference half's activations, "
    "on 2,048 of its examples",
    "logit_displacement": "sqrt(sum ||l' - l||^2 / sum ||l - mean||^2) of the logits l",
    "centred_logit_displacement": "the same, the mean logit shift of the reference half taken out of l' - l",
    "accuracy": "share of examples predicted right",
    "centred_accuracy": "the same, the mean logit shift of the reference half taken out",
    "agreement": "share of predictions that are those of the unperturbed network",
    "centred_agreement": "the same, the mean logit shift of the reference half taken out",
}
LONG_NAMES = {**MEASURES, "not_finite": NOT_FINITE["long_name"]}
LEVELS = ("level", "displacement")
SIZE_CHECKS = ("whitened", "centred_logits")  # checks with levels of equal size in another measure
HELD_OUT = "held_out"  # the check with other data
SIZED_BY = "signed_shift"  # the family whose sizes in the other measures are the targets of these checks
SAMPLE = 2048  # examples of the reference half on which sizes in other measures are measured
ALL_FAMILIES = (*FAMILIES, *NOISES)
MOST_WHITENED = 4096  # live units; with more the whitened displacement is NaN
MOSTLY_DEAD = 0.8  # the share of dead units from which the result says so
VARYING = 1e-12  # the least variance of the logits, relative to their squares, that isn't rounding


@dataclass(frozen=True, kw_only=True)
class Design:
    """The design of a measurement at matched displacement.

    Attributes:
        families: names of families in `nearzero.perturbations.families` and `nearzero.perturbations.noise`; all
            by default. Of these, the families that need the units' weights have NaN where those aren't known.
        targets: the displacements, 0.1 for 10 %.
        draws: the number of draws of each family that draws something for each unit. Noise, which is drawn
            for each example, is drawn once.
        seed: the seed of the draws, and of the choice of the reference half.
        first_draw: the number of the first draw. Give each run of one model draws of its own (for example the
            number of the run times `draws`). The runs then don't share the effect of a particular draw.
        conduct: the reading of the protocol; `Conduct.default` of the activation if None.
        checks: "whitened", "centred_logits", or both: responses at levels that give equal sizes in these
            measures as well. The sizes are those that signed shifts have at the targets, on 2,048 examples of
            the reference half.
        checked: the families that the checks measure, as far as they are among `families`.

    Raises:
        InputError: no families, unknown ones or the same one twice, targets that aren't positive, fewer than
            one draw, a negative number, or a conduct that isn't a `Conduct`.

    Example:
        >>> import nearzero as nz
        >>> design = nz.Design(families=("shift", "gains", "noise"), targets=(0.1, 0.3))
        >>> design.draws
        5
        >>> nz.Design(families=("shfit",))
        Traceback (most recent call last):
        nearzero.errors.InputError: unknown family 'shfit': did you mean 'shift'? ...
    """

    families: tuple[str, ...] = ALL_FAMILIES
    targets: tuple[float, ...] = TARGETS
    draws: int = 5
    seed: int = 0
    first_draw: int = 0
    conduct: Conduct | None = None
    checks: tuple[str, ...] = SIZE_CHECKS
    checked: tuple[str, ...] = (SIZED_BY, "gains", "cap")

    def __post_init__(self) -> None:
        names: Any = self.families
        if isinstance(names, str) or not names or len(set(names)) < len(names):
            raise InputError(f"families must be names, each once; got {names!r}")
        for name in names:
            if name not in ALL_FAMILIES:
                hint = did_you_mean(name, ALL_FAMILIES)
                raise InputError(f"unknown family {name!r}: {hint}known are {', '.join(ALL_FAMILIES)}")
        for check in self.checks:
            check_choice("check", check, SIZE_CHECKS)
        for name in self.checked:
            check_choice("checked family", name, tuple(FAMILIES))
        check_number_of_labels(target=len(self.targets))
        if not self.targets or not all(0 < target <= LARGEST_TARGET for target in self.targets):
            raise InputError(
                f"targets must be positive displacements of at most {LARGEST_TARGET:g}, 0.1 for 10 %; "
                f"got {list(self.targets)}"
            )
        for name, least in (("draws", 1), ("seed", 0), ("first_draw", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InputError(f"{name} must be a whole number, at least {least}; got {value!r}")
        if self.conduct is not None and not isinstance(self.conduct, Conduct):
            raise InputError(f"conduct must be an nz.Conduct; got {type(self.conduct).__name__}")

    def drawn(self, name: str, conduct: Conduct) -> list[Family]:
        """Return a per-unit family once for each draw, or once if it draws nothing."""
        draws = self.draws if make_family(name, conduct).random else 1
        return [make_family(name, conduct, self.draw_seed + draw) for draw in range(draws)]

    @property
    def draw_seed(self) -> int:
        """Return the seed of the first draw. Each further draw has the next seed."""
        return self.seed + self.first_draw


def matched(
    model: TwoLayer | nn.Module,
    data: Any,
    y: npt.ArrayLike | None = None,
    *,
    design: Design | None = None,
    metrics: Any = None,
    held_out: Any = None,
    threads: int | None = None,
    memory: int | str | None = None,
    **options: Unpack[ModelOptions],
) -> xr.Dataset:
    """Return the responses of one layer to families at levels of equal displacement.

    Args:
        model: a `TwoLayer`, or any `torch.nn.Module`.
        data: inputs (N, D), or any data that `nz.probe` takes.
        y: the labels, (N,), if the inputs are an array. Without labels the result has the agreement but no
            accuracy.
        design: families, targets and draws; `Design()` if None.
        metrics: names, or functions of (logits, target), as for `nz.probe`; accuracy and agreement if None.
        held_out: other data, as (inputs, labels) or as `data`: the families that are checked are measured on
            them too, at the same levels.
        threads, memory: as for `nz.sweep`.
        options: the layer and other settings of models that aren't a `TwoLayer`, see
            `nearzero.evaluators.select.ModelOptions`.

    Returns:
        A Dataset on (family, side, target) with the variables of `MEASURES`. If metrics are asked for, they and
        their centred forms replace accuracy and agreement. Values are NaN where a displacement isn't reached; the
        whitened displacement is NaN for more than 4,096 live units. Further variables are `unperturbed_<metric>` of
        the responding half, `dead_units`, and `undefined_examples`, the number of examples of the responding
        half with a = 0, which have no displacement of their own. `reason` says in words if the network is
        degenerate and what can't be measured: no or few live units, a single predicted class, a = 0 in all
        examples, a covariance that can't be inverted; else it is "". If logits are NaN or
        infinite anywhere, `not_finite` counts the items that have such logits, as a mean over draws; these count as
        wrong. For each check there are `checked_<metric>`, `checked_level` and `unperturbed_checked_<metric>` on a
        dimension `check`, `target_size`, the sizes that were matched, and `checked`, True for the families that
        the checks measured. The attributes name the backend and the rule by which the halves were cut, and hold
        what was inferred about a user's model (`assumptions`, as JSON).

    Raises:
        InputError: as `nz.sweep` and `nz.probe`.

    Example:
        >>> import nearzero as nz
        >>> network = nz.TwoLayer([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.5], "relu")
        >>> x = [[1.0], [1.5], [-2.0], [-2.5], [0.25], [0.75], [-3.0], [-1.0]]
        >>> responses = nz.matched(network, x, design=nz.Design(families=("scale",), targets=(0.1, 0.5)))
        >>> responses.level.sel(family="scale").values.round(3).tolist()  # a' = s a, so d = |s - 1|
        [[0.9, 0.5], [1.1, 1.5]]
        >>> responses.side.values.tolist()
        ['below', 'above']
    """
    design = design or Design()
    with ExitStack() as stack:

        def opened(data: Any, y: Any) -> LayerEvaluator:
            return stack.enter_context(
                open_evaluator(model, data, y, options, metrics=metrics, threads=threads, memory=memory)
            )

        evaluator = opened(data, y)
        other = None if held_out is None else opened(*_pair(held_out, is_array=y is not None))
        return matched_of(evaluator, design, other).assign_attrs(evaluator.assumed())


def _pair(held_out: Any, *, is_array: bool) -> tuple[Any, Any]:
    """Return held-out data as data and labels.

    Raises:
        InputError: data that aren't (inputs, labels), where the other data are given as inputs and labels.
    """
    if not is_array:
        return held_out, None
    if not isinstance(held_out, (tuple, list)) or len(held_out) != 2:
        raise InputError(f"held_out must be (inputs, labels), as the data are; got {type(held_out).__name__}")
    return held_out[0], held_out[1]


def draw_number(seed: int, name: str, draws: int) -> int:
    """Return the number of the first draw of one run of one network, so that no two share draws.

    Args:
        seed: the seed of the run.
        name: the name of the network; networks with other names get other draws.
        draws: the number of draws of a run.
    """
    digest = hashlib.sha256(f"{name}\0{seed}".encode()).digest()
    return int.from_bytes(digest[:6], "big") * draws


def matched_of(
    evaluator: LayerEvaluator,
    design: Design,
    held_out: LayerEvaluator | None = None,
    *,
    keep_items: bool = False,
) -> xr.Dataset:
    """Return the result of `matched` for evaluators that are already open.

    With `keep_items` it also has `<metric>_items` on (family, side, target, item) and `unperturbed_<metric>_items` of
    the responding half, in float32, and `sequence`, the number of each item's example in this half.
    """
    conduct = evaluator.conduct(design.conduct)
    # a family that was asked for is refused where it isn't defined; of all families it is left out, as NaN
    left_out = evaluator.undefined if design.families == ALL_FAMILIES else frozenset()
    evaluator.check(conduct, [name for name in design.families if name not in left_out])
    if evaluator.assumptions is not None:
        evaluator.assumptions.record("halves", halves_of(evaluator), f"seed {design.seed}", "design=")
    # NumPy's products are small here, and synchronising threads costs more time than they save
    with one_blas_thread() if evaluator.backend == "two-layer" else nullcontext():
        return _MatchedHalves(*evaluator.split(design.seed), held_out, design, conduct).dataset(keep_items)


def halves_of(evaluator: LayerEvaluator) -> str:
    """Return the rule by which an evaluator's data are halved."""
    return HALVES if evaluator.halves == "example" else HALVES.replace("examples", "batches")


@dataclass(frozen=True, eq=False)
class _MatchedDraw:
    """One draw of a family on one side, at the levels of all displacements.

    Attributes:
        cell: the indices of the family and of the side in the result.
        draw: the number of the draw.
        family: the family of the draw; None for noise.
        matches: a level for each displacement, T of them.
        reference: the perturbations of the reference half at the levels that were reached.
        responding: the perturbations of the responding half at these levels.
    """

    cell: tuple[int, int]
    draw: int
    family: Family | None
    matches: Sequence[Match]
    reference: Sequence[AnyPerturbation]
    responding: Sequence[AnyPerturbation]

    def spread(self, values: Doubles) -> Doubles:
        """Return values of the levels that were reached, with NaN for the others, (T, ...)."""
        out = np.full((len(self.matches), *values.shape[1:]), np.nan)
        out[[match.reached for match in self.matches]] = values
        return out


class _MatchedHalves:
    """The two halves of the examples, and the measurements on them, in few passes over the data."""

    def __init__(
        self,
        reference: LayerEvaluator,
        responding: LayerEvaluator,
        held_out: LayerEvaluator | None,
        design: Design,
        conduct: Conduct,
    ) -> None:
        self.reference, self.responding, self.held_out = reference, responding, held_out
        self.design, self.conduct = design, conduct
        self.ranges = reference.ranges
        self._matches: dict[tuple[Family, str], list[Match]] = {}

    @cached_property
    def sizes(self) -> Displacements | None:
        """Return the displacements of the reference half; None if its live units are all 0."""
        try:
            return Displacements(self.reference, self.ranges)
        except UndefinedSizeError:
            return None

    @cached_property
    def other_sizes(self) -> OtherSizes:
        """Return the sizes in other measures, on the first examples of the reference half."""
        return OtherSizes(self.reference.first(SAMPLE), self.ranges, self.whitening)

    @cached_property
    def whitening(self) -> Whitening | None:
        """Return the whitened measure of the reference half; None if it can't be measured.

        That is the case if its matrices would be too large, or the covariance can't be inverted.
        """
        if self.ranges.live.sum() > MOST_WHITENED:
            return None
        try:
            return Whitening.of(self.reference.activations(), self.ranges.live)
        except UndefinedSizeError:
            return None

    def draws(self) -> Iterator[_MatchedDraw]:
        """Yield every draw of every family on each of its sides; none if no displacement is defined."""
        sizes, targets = self.sizes, self.design.targets
        if sizes is None:
            return
        for row, name in enumerate(self.design.families):
            if name in self.reference.undefined:
                continue
            if name in NOISES:
                z, seed = self.reference.preactivations(), self.design.draw_seed
                noise = Noise.of(name, z, self.ranges.live, seed)
                drawn = [noise.draw(half.row_examples) for half in (self.reference, self.responding)]
                matches = sizes.match_noise(drawn[0], targets)
                levels = [match.level for match in matches if match.reached]
                halves = ([Addition(values, level) for level in levels] for values in drawn)
                yield _MatchedDraw((row, SIDES.index("above")), 0, None, matches, *halves)
                continue
            for draw, family in enumerate(self.design.drawn(name, self.conduct)):
                for side in family.sides if family.identity is not None else ():
                    matches = self._match(family, side)
                    reached = self._reached(family, matches)
                    yield _MatchedDraw((row, SIDES.index(side)), draw, family, matches, reached, reached)

    def dataset(self, keep_items: bool = False) -> xr.Dataset:
        """Return all measurements as labelled arrays, see `matched_of`."""
        draws = list(self.draws())
        shift = self.reference.mean_logit_change([item for draw in draws for item in draw.reference])
        perturbations = [item for draw in draws for item in draw.responding]
        scores = self.responding.scores(perturbations, self.responding.metrics, shift, keep=keep_items)
        # sizes don't enter any verdict, so they are measured on the first draw alone
        first = np.array([draw.draw == 0 for draw in draws for _ in draw.responding], np.bool_)
        sizes, undefined, reason = self._geometry(list(compress(perturbations, first)), shift[first])
        of_reference = [item for draw in draws if draw.draw == 0 for item in draw.reference]
        sizes["whitened_displacement"] = self.other_sizes.whitened(of_reference)
        names = [f"{prefix}{name}" for name in self.responding.metrics for prefix in ("", "centred_")]
        measured = {name: scores.means[name] for name in names}
        for name, values in sizes.items():
            measured[name] = np.full(len(perturbations), np.nan)
            measured[name][first] = values
        if scores.not_finite.any():
            measured["not_finite"] = scores.not_finite.astype(np.float64)
        tables = self._tables(draws, measured, sizes)
        dims = ("family", "side", "target")
        data: dict[str, Any] = {
            name: (dims, table, {"long_name": LONG_NAMES[name]} if name in LONG_NAMES else {})
            for name, table in tables.items()
        }
        data |= {"dead_units": ((), self.ranges.dead_units), "undefined_examples": ((), undefined)}
        data["reason"] = ((), reason)
        design, responding = self.design, self.responding
        data |= unperturbed_variables(scores, responding.metrics)
        coords: dict[str, Any] = {
            "family": list(design.families),
            "side": list(SIDES),
            "target": list(design.targets),
        }
        if checks := [*design.checks, *([HELD_OUT] if self.held_out is not None else [])]:
            coords["check"] = checks
            data |= self._checks(draws, checks)
        if keep_items:
            data |= self._items(draws, scores)
            positions = scores.positions
            sequence = np.arange(scores.items) if positions is None else positions[:, 0]
            coords["sequence"] = (("item",), sequence)
        attributes = {
            **asdict(self.conduct),
            "activation": responding.activation or "none",
            "backend": responding.backend,
            "layer": responding.layer,
            "halves": halves_of(responding),
            "draws": design.draws,
            "seed": design.seed,
            "first_draw": design.first_draw,
            "examples": len(responding.examples),
            "reference_examples": len(self.reference.examples),
            "items": scores.items,
        }
        return xr.Dataset(data, coords, attributes)

    def _items(self, draws: Sequence[_MatchedDraw], scores: Scores) -> dict[str, Any]:
        """Return the values of each metric item by item, see `matched_of`."""
        dims = ("family", "side", "target", "item")
        metrics = self.responding.metrics
        tables = self._tables(draws, {name: scores.values[name] for name in metrics}, ())
        data: dict[str, Any] = {}
        for name in metrics:
            data[f"{name}_items"] = (dims, tables[name].astype(np.float32))
            data[f"unperturbed_{name}_items"] = (
                ("item",),
                scores.unperturbed_values[name].astype(np.float32),
            )
        return data

    def _checks(self, draws: Sequence[_MatchedDraw], checks: Sequence[str]) -> dict[str, Any]:
        """Return the variables of the checks, see `matched`.

        Args:
            draws: all draws of the families, at the levels of the displacements.
            checks: the names of the checks.
        """
        own = [draw for draw in draws if self.design.families[draw.cell[0]] in self.design.checked]
        sizes, metrics = self.other_sizes, self.responding.metrics
        targets = np.full((len(checks), len(self.design.targets)), np.nan)
        tables, unperturbed = [], []
        for row, check in enumerate(checks):
            if check == HELD_OUT:
                assert self.held_out is not None
                evaluator, at_check = self.held_out, own
            else:
                evaluator, targets[row] = self.responding, self._target_sizes(sizes, check)
                at_check = [self._resized(draw, sizes, check, targets[row]) for draw in own]
            perturbations = [item for draw in at_check for item in draw.responding]
            scores = evaluator.scores(perturbations, metrics)
            tables.append(self._tables(at_check, {name: scores.means[name] for name in metrics}, ()))
            unperturbed.append([scores.unperturbed[name] for name in metrics])
        dims = ("check", "family", "side", "target")
        data: dict[str, Any] = {
            f"checked_{name}": (dims, np.stack([table[name] for table in tables]))
            for name in ("level", *metrics)
        }
        for name, values in zip(metrics, np.transpose(unperturbed), strict=True):
            data[f"unperturbed_checked_{name}"] = (("check",), values)
        data["target_size"] = (("check", "target"), targets)
        data["checked"] = (("family",), [name in self.design.checked for name in self.design.families])
        return data

    def _target_sizes(self, sizes: OtherSizes, check: str) -> Doubles:
        """Return the sizes that signed shifts have at the displacements, means over draws, (T,).

        They are NaN where a draw doesn't reach the displacement, or the size can't be measured.
        """
        targets = np.full((self.design.draws, len(self.design.targets)), np.nan)
        if self.sizes is None:
            return np.asarray(targets[0])
        for draw, family in enumerate(self.design.drawn(SIZED_BY, self.conduct)):
            matches = self._match(family, "above")
            reached = [match.reached for match in matches]
            if perturbations := self._reached(family, matches):
                targets[draw, reached] = sizes.of(check, perturbations)
        return np.asarray(targets.mean(axis=0))

    def _match(self, family: Family, side: str) -> list[Match]:
        """Return the level of each displacement on one side of a family; each is searched for once."""
        key = (family, side)
        if key not in self._matches:
            assert self.sizes is not None
            self._matches[key] = self.sizes.match(family, side, self.design.targets)
        return self._matches[key]

    def _reached(self, family: Family, matches: Sequence[Match]) -> list[Perturbation]:
        """Return the perturbations of a family at the levels that were reached."""
        return [family.at(match.level, self.ranges) for match in matches if match.reached]

    def _resized(self, draw: _MatchedDraw, sizes: OtherSizes, check: str, targets: Doubles) -> _MatchedDraw:
        """Return a draw at the levels that give these sizes in the measure of a check."""
        assert draw.family is not None  # noise isn't checked
        matches = sizes.match(check, draw.family, SIDES[draw.cell[1]], targets.tolist())
        reached = self._reached(draw.family, matches)
        return replace(draw, matches=matches, reference=reached, responding=reached)

    def _tables(
        self, draws: Sequence[_MatchedDraw], measured: Mapping[str, Doubles], once: Container[str]
    ) -> dict[str, Doubles]:
        """Return means over draws, (family, side, target, ...); NaN where any draw doesn't reach the displacement.

        Args:
            draws: all draws of all families.
            measured: by name, the values under the perturbations of all draws, one draw after the other, (L, ...).
            once: the names whose values are those of the first draw, and not means.
        """
        shape = len(self.design.families), len(SIDES), len(self.design.targets)
        tables = {name: np.full(shape, np.nan) for name in LEVELS}
        tables |= {name: np.full((*shape, *values.shape[1:]), np.nan) for name, values in measured.items()}
        done = 0
        rows: defaultdict[tuple[int, int], list[dict[str, Doubles]]] = defaultdict(list)
        for draw in draws:
            own = slice(done, done := done + len(draw.responding))
            row = {name: np.array([getattr(match, name) for match in draw.matches]) for name in LEVELS}
            row |= {name: draw.spread(values[own]) for name, values in measured.items()}
            rows[draw.cell].append(row)
        for cell, cell_rows in rows.items():
            lost = np.isnan(np.mean([row["level"] for row in cell_rows], axis=0))
            for name, table in tables.items():
                averaged = cell_rows[:1] if name in once else cell_rows
                table[cell] = np.mean([row[name] for row in averaged], axis=0)
                table[cell][lost] = np.nan
        return tables

    def _geometry(
        self, perturbations: Sequence[AnyPerturbation], shift: Doubles
    ) -> tuple[dict[str, Doubles], int, str]:
        """Return the sizes of the changes on the responding half, and what is degenerate.

        Args:
            perturbations: L of them.
            shift: (L, K), the mean logit shift of the reference half under each.

        Returns:
            By measure, the size under each perturbation, (L,), NaN where it isn't defined; the number of
            examples with a = 0; and the reasons, see `_reasons`.
        """
        blocks = self.responding.gather(lambda block: self._sizes(block, perturbations, shift))
        energies = np.concatenate([own for own, _, _ in blocks])
        squares = np.concatenate([own for _, own, _ in blocks], axis=1)
        total = {name: sum(sums[name] for _, _, sums in blocks) for name in blocks[0][2]}
        spread = total["energy"] - float(total["logits"] @ total["logits"]) / total["items"]
        active = energies > 0
        each = np.sqrt(squares[:, active] / energies[active])
        spread = spread if spread > VARYING * total["energy"] else 0.0
        sizes = {
            "displacement_here": _relative(squares.sum(axis=1), energies.sum()),
            "median_displacement": np.median(each, axis=1) if active.any() else np.full(len(each), np.nan),
            "logit_displacement": _relative(total["moved"], spread),
            "centred_logit_displacement": _relative(total["centred"], spread),
        }
        return sizes, int((~active).sum()), "; ".join(self._reasons(active, total["predicted"]))

    def _reasons(self, active: npt.NDArray[np.bool_], predicted: Integers) -> Iterator[str]:
        """Yield what is degenerate, in words.

        Args:
            active: for each example of the responding half, whether a isn't 0.
            predicted: (K,), how many items of the responding half are predicted as each class.
        """
        dead, units = self.ranges.dead_units, len(self.ranges.live)
        if dead == units:
            yield "no unit is live"
            return
        if dead >= MOSTLY_DEAD * units:
            yield f"{dead} of {units} units are dead"
        if self.sizes is None:
            yield "the activations are 0 in the reference half"
        elif self.whitening is None and units - dead <= MOST_WHITENED:
            yield "the covariance can't be inverted"
        if not active.any():
            yield "the activations are 0 in the responding half"
        elif len(predicted) > 1 and np.count_nonzero(predicted) == 1:
            yield "one class is predicted"

    def _sizes(
        self, block: Block, perturbations: Sequence[AnyPerturbation], shift: Doubles
    ) -> tuple[Doubles, Doubles, dict[str, Any]]:
        """Return the sizes of the changes in one block of examples.

        Returns:
            sum ||a||^2 over rows and live units, of each example that has rows, (n,); the same of a' - a,
            (L, n); and sums over the rows or items of the block, by name: `moved` (of the logits)
            and `centred`, (L,); `logits`, (K,), the sum of l, and `energy`, that of ||l||^2; the number of
            `items`; and `predicted`, (K,), the numbers of items predicted as each class.
        """
        live = self.ranges.live
        # a mask can remove all rows of an example, or of all examples
        present, owners = np.unique(block.row_examples, return_inverse=True)
        count = len(present)

        def by_example(rows: npt.NDArray[Any]) -> Doubles:
            own = rows if live.all() else rows[:, live]
            squares = np.einsum("ru,ru->r", own, own)
            return np.asarray(np.bincount(owners, squares, minlength=count), dtype=np.float64)

        squares = np.empty((len(perturbations), count))
        moved, centred = np.empty((2, len(perturbations)))
        for number, perturbation in enumerate(perturbations):
            activations, logits = block.under(perturbation)
            with np.errstate(
                over="ignore", invalid="ignore"
            ):  # of logits that aren't finite, which are counted
                change, step = activations - block.activations, (logits - block.logits).astype(np.float64)
                squares[number] = by_example(change)
                moved[number] = np.square(step).sum()
                centred[number] = np.square(step - shift[number]).sum()
        plain = block.logits.astype(np.float64)
        sums = {
            "logits": plain.sum(axis=0),
            "energy": float(np.square(plain).sum()),
            "items": len(plain),
            "predicted": np.bincount(plain.argmax(axis=1), minlength=plain.shape[1]),
            "moved": moved,
            "centred": centred,
        }
        return by_example(block.activations), squares, sums


def _relative(squares: Doubles, whole: float) -> Doubles:
    """Return sqrt(squares / whole); NaN if the whole is 0."""
    return np.sqrt(squares / whole) if whole > 0 else np.full(len(squares), np.nan)
