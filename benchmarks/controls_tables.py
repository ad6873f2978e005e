"""The tables of the trained controls in docs/validation.md, made from results/controls.json.

Only costs are kept. Verdicts are reached here, by the default rules of the package as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

import nearzero as nz
from nearzero.analysis.verdict import Measure
from nearzero.mechanisms.studies import as_responses
from nearzero.statistics.ratios import ratio_of_means
from validation_tables import row

__all__ = ["IMAGES", "as_expected", "runs_of", "tables"]

IMAGES = ("training", "held-out")
DIRECTIONS = ("distance costs more", "intensity costs more")
SHOWN = (0.1, 0.3, 0.5)  # displacements in the table of costs


def tables(kept: Mapping[str, Any]) -> dict[str, str]:
    """Return all tables as Markdown, by the name of their place in the page."""
    makers = {
        "control_verdicts": _verdicts,
        "control_findings": _findings,
        "control_costs": _costs,
    }
    return {name: "\n".join(make(kept)) for name, make in makers.items()}


def runs_of(
    kept: Mapping[str, Any], control: Mapping[str, Any], images: str, measure: Measure = "accuracy"
) -> list[xr.Dataset]:
    """Return the kept responses of each run of a control, as `nz.verdict` takes them."""
    name = {"network": [control["name"]]}
    coords = {**name, "run": [0], "family": kept["families"], "target": kept["targets"]}
    out = []
    for run in (record[images] for record in control["runs"]):
        values = np.array(run[measure], dtype=float)[None, None]
        costs = xr.DataArray(values, coords, ("network", "run", "family", "target"))
        whole = xr.DataArray([[run["unperturbed"]]], name, ("network", "run"))
        responses = as_responses(costs, whole, measure=measure).isel(run=0)
        out.append(responses.assign_coords(activation=("network", [control["activation"] or "none"])))
    return out


def as_expected(expected: Mapping[str, Any], found: Mapping[float, str]) -> bool:
    """Return True if what was expected of a comparison was found.

    An expected direction must be found at one of its displacements at least, and the opposite at none. Where no
    direction was expected, none may be found.

    Args:
        expected: the `finding`, and the `targets` at which it was expected.
        found: the finding at each displacement.
    """
    directions = {finding for finding in found.values() if finding in DIRECTIONS}
    if expected["finding"] not in DIRECTIONS:
        return not directions
    places = [found[target] for target in expected["targets"]]
    return directions == {expected["finding"]} and expected["finding"] in places


def _judged(
    kept: Mapping[str, Any], control: Mapping[str, Any], images: str, measure: Measure = "accuracy"
) -> nz.Verdict:
    return nz.verdict(runs_of(kept, control, images, measure), nz.Rules(measure=measure))


def _overall(verdict: nz.Verdict) -> str:
    return verdict.of(verdict.networks[0]).split(" (")[0]


def _verdicts(kept: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "| control | images | runs | accuracy, % | expected | verdict | as expected "
        "| verdict by centred accuracy |"
    )
    yield "| --- | --- | ---: | ---: | --- | --- | --- | --- |"
    for control in kept["controls"]:
        for images in IMAGES:
            runs = [record[images] for record in control["runs"]]
            verdict = _overall(_judged(kept, control, images))
            centred = _overall(_judged(kept, control, images, "centred_accuracy"))
            accuracy = f"{100 * np.mean([run['all'] for run in runs]):.1f}"
            words = control["expected"], verdict, _yes(control["expected"] == verdict), centred
            yield row(control["name"], images, len(runs), accuracy, *words)


def _findings(kept: Mapping[str, Any]) -> Iterator[str]:
    yield "| control | against a signed shift | images | expected | found | as expected |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for control in kept["controls"]:
        for family in ("gains", "cap"):
            expected = control[family]
            for images in IMAGES:
                comparisons = _judged(kept, control, images).comparisons
                found = {one.target: one.finding for one in comparisons if one.intensity == family}
                places = f" ({_percent(expected['targets'])})" if expected["finding"] in DIRECTIONS else ""
                words = f"{expected['finding']}{places}", _grouped(found), _yes(as_expected(expected, found))
                yield row(control["name"], family, images, *words)


def _costs(kept: Mapping[str, Any]) -> Iterator[str]:
    names = [name.replace("_", " ") for name in kept["families"]]
    yield f"| control | images | displacement, % | {' | '.join(names)} | gains / signed shift | cap / signed shift |"
    yield f"| --- | --- | ---: {'| ---: ' * len(names)}| ---: | ---: |"
    for control in kept["controls"]:
        for images in IMAGES:
            all_costs = np.array([record[images]["accuracy"] for record in control["runs"]], dtype=float)
            for target in SHOWN:
                values = all_costs[:, :, kept["targets"].index(target)]
                own = dict(zip(kept["families"], values.T, strict=True))
                ratios = (_ratio(own[family], own["signed_shift"]) for family in ("gains", "cap"))
                yield row(control["name"], images, f"{100 * target:g}", *map(_mean, own.values()), *ratios)


def _mean(costs: np.ndarray) -> str:
    """Return the mean cost over runs; a dash unless all runs reach the displacement."""
    return f"{costs.mean():.1f}" if np.isfinite(costs).all() else "–"


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> str:
    """Return a ratio of mean costs with Fieller's 95 % interval."""
    found = ratio_of_means(numerator, denominator)
    if found.ratio is None:
        return "undefined" if found.n == len(numerator) else "–"
    return f"{found.ratio:.2f} ({found.low:.2f} to {found.high:.2f})"


def _grouped(found: Mapping[float, str]) -> str:
    """Return findings with their displacements: "inconclusive (5, 10 %); distance costs more (20 %)"."""
    places: dict[str, list[float]] = {}
    for target, finding in found.items():
        places.setdefault(finding, []).append(target)
    return "; ".join(f"{finding} ({_percent(own)})" for finding, own in places.items())


def _percent(targets: list[float]) -> str:
    return ", ".join(f"{100 * target:g}" for target in targets) + " %"


def _yes(holds: bool) -> str:
    return "yes" if holds else "**no**"
