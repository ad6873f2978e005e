"""The tables of the trained controls in docs/controls.md, made from results/controls.nc.

What was expected is here as it was written down before training. Verdicts are reached by the default rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import xarray as xr

import nearzero as nz
from nearzero.analysis.verdict import CHECKS, Comparison
from validation_tables import row

__all__ = ["EXPECTATIONS", "Expected", "tables"]

DISTANCE, INTENSITY, UNDECIDED = "distance costs more", "intensity costs more", "undecided"
SHOWN = (0.1, 0.3, 0.5)  # displacements in the table of costs


@dataclass(frozen=True)
class Expected:
    """The expected finding of a comparison: a direction at some displacements, or none at any."""

    finding: str
    targets: tuple[float, ...] = (0.3, 0.5)

    def holds(self, found: Mapping[float, str]) -> bool:
        """Return True if this was found, given the finding at each displacement.

        An expected direction must be found at one of its displacements at least, and the opposite at none. Where
        no direction was expected, none may be found.
        """
        directions = {finding for finding in found.values() if finding in (DISTANCE, INTENSITY)}
        if self.finding == UNDECIDED:
            return not directions
        return directions == {self.finding} and self.finding in (found[target] for target in self.targets)

    @property
    def words(self) -> str:
        """Return the finding, and where it is expected."""
        places = "" if self.finding == UNDECIDED else f" ({_percent(self.targets)})"
        return self.finding + places


@dataclass(frozen=True)
class _Expectation:
    """The expected verdict on a control, and the expected findings of gains and of a cap."""

    verdict: str
    gains: Expected
    cap: Expected


EXPECTATIONS = {
    "smallest wins, Abs": _Expectation(DISTANCE, Expected(DISTANCE), Expected(DISTANCE)),
    "smallest wins, ReLU": _Expectation(DISTANCE, Expected(DISTANCE), Expected(DISTANCE)),
    "largest wins, Abs": _Expectation(INTENSITY, Expected(UNDECIDED), Expected(INTENSITY)),
    "largest wins, ReLU": _Expectation(INTENSITY, Expected(INTENSITY), Expected(INTENSITY)),
    "OffsetL2": _Expectation(DISTANCE, Expected(UNDECIDED), Expected(DISTANCE, (0.05, 0.1, 0.2))),
}


def tables(responses: xr.Dataset) -> dict[str, str]:
    """Return all tables as Markdown, by the name of their place in the page."""
    verdict = nz.verdict(responses)
    made = {
        "control_verdicts": _verdicts(verdict, responses),
        "control_findings": _findings(verdict),
        "control_costs": _costs(verdict),
    }
    return {name: "\n".join(lines) for name, lines in made.items()}


def _verdicts(verdict: nz.Verdict, responses: xr.Dataset) -> Iterator[str]:
    yield (
        "| control | runs | training accuracy, % | test accuracy, % | expected | verdict | as expected "
        f"| {' | '.join(CHECKS.values())} |"
    )
    yield f"| --- | ---: | ---: | ---: | --- | --- | --- {'| --- ' * len(CHECKS)}|"
    for name in verdict.networks:
        own, expected = responses.sel(network=name), EXPECTATIONS[name].verdict
        accuracies = (own.training_accuracy, own.held_out_accuracy)
        percent = (f"{100 * float(accuracy.mean()):.1f}" for accuracy in accuracies)
        found = verdict.finding(name)
        outcomes = {check.check: check.outcome for check in verdict.checked(name)}
        checks = (outcomes.get(check, "–") for check in CHECKS)
        yield row(name, own.sizes["run"], *percent, expected, found, _yes(expected == found), *checks)


def _findings(verdict: nz.Verdict) -> Iterator[str]:
    yield "| control | against a signed shift | images | expected | found | as expected |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name in verdict.networks:
        for family in ("gains", "cap"):
            expected: Expected = getattr(EXPECTATIONS[name], family)
            for images, rows in _images(verdict).items():
                found = {each.target: str(each.finding) for each in _of(rows, name, family)}
                words = expected.words, _grouped(found), _yes(expected.holds(found))
                yield row(name, family, images, *words)


def _costs(verdict: nz.Verdict) -> Iterator[str]:
    families = [str(name) for name in verdict.costs.family.values]
    names = [name.replace("_", " ") for name in families]
    yield (
        f"| control | displacement, % | {' | '.join(names)} | gains / signed shift | cap / signed shift "
        "| held-out: signed shift | gains | cap |"
    )
    yield f"| --- | ---: {'| ---: ' * len(names)}| ---: | ---: | ---: | ---: | ---: |"
    ratios = {(each.network, each.intensity, each.target): each.ratio for each in verdict.relative_costs}
    for name in verdict.networks:
        for target in SHOWN:
            mean = verdict.costs.sel(network=name, target=target).mean("run", skipna=False)
            costs = [float(mean.sel(family=family)) for family in families]
            gains, cap = (
                next(each for each in _of(verdict.checks["held_out"], name, family) if each.target == target)
                for family in ("gains", "cap")
            )
            held_out = gains.distance_cost, gains.intensity_cost, cap.intensity_cost
            relative = (ratios[name, family, target] for family in ("gains", "cap"))
            between = (
                each.reason if each.ratio is None else f"{each.ratio:.2f} ({each.low:.2f} to {each.high:.2f})"
                for each in relative
            )
            yield row(name, f"{100 * target:g}", *map(_points, costs), *between, *map(_points, held_out))


def _images(verdict: nz.Verdict) -> dict[str, Sequence[Comparison]]:
    return {"training": verdict.comparisons, "held-out": verdict.checks["held_out"]}


def _of(rows: Sequence[Comparison], network: str, intensity: str) -> list[Comparison]:
    return [each for each in rows if (each.network, each.intensity) == (network, intensity)]


def _points(cost: float) -> str:
    """Return a cost; a dash if some run doesn't reach the displacement."""
    return f"{cost:.1f}" if cost == cost else "–"


def _grouped(found: Mapping[float, str]) -> str:
    """Return findings with their displacements: "inconclusive (5, 10 %); distance costs more (20 %)"."""
    places: dict[str, list[float]] = {}
    for target, finding in found.items():
        places.setdefault(finding, []).append(target)
    return "; ".join(f"{finding} ({_percent(own)})" for finding, own in places.items())


def _percent(targets: Sequence[float]) -> str:
    return ", ".join(f"{100 * target:g}" for target in targets) + " %"


def _yes(holds: bool) -> str:
    return "yes" if holds else "**no**"
