"""Responses from a study, a grid, a probe, or runs measured one by one, and the verdict on them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
import xarray as xr

from nearzero.analysis.matched import SIZE_CHECKS, Design
from nearzero.analysis.verdict.judge import Verdict, judge
from nearzero.analysis.verdict.rules import Rules
from nearzero.errors import InputError
from nearzero.perturbations.families import FAMILIES
from nearzero.perturbations.noise import NOISES

__all__ = ["REPORTED", "design_for", "gathered", "verdict"]

BLOCK = 64  # runs that are joined at a time
REPORTED = ("shift",)  # families that are measured and reported beside those that decide


def design_for(rules: Rules, reported: Sequence[str] = REPORTED, **settings: Any) -> Design:
    """Return the design that measures what rules and their checks need.

    Args:
        rules: the rules.
        reported: families to be measured in addition to those that decide.
        settings: other settings of `Design`, such as the number of draws.

    Example:
        >>> import nearzero as nz
        >>> from nearzero.analysis.verdict import design_for
        >>> design_for(nz.Rules(intensity=("gains",)), draws=2).families
        ('shift', 'signed_shift', 'gains')
    """
    deciding = {*rules.distance, *rules.intensity}
    return Design(
        families=tuple(name for name in (*FAMILIES, *NOISES) if name in {*deciding, *reported}),
        targets=rules.targets,
        checks=tuple(check for check in SIZE_CHECKS if check in rules.checks),
        checked=tuple(name for name in FAMILIES if name in deciding) if rules.checks else (),
        **settings,
    )


def gathered(parts: Sequence[Sequence[xr.Dataset | None]], networks: Sequence[str]) -> xr.Dataset:
    """Return the responses of single networks as one float64 Dataset on (network, run, ...).

    Args:
        parts: for each network, the responses of each run, which are asked for once, one after the other. None stands
            for a run without responses, for example one that diverged; its values are NaN, and its words "". At
            least one run isn't None.
        networks: the names of the networks.
    """

    def number(values: xr.DataArray) -> xr.DataArray:
        # words stay words
        return values if values.dtype.kind in "UO" else values.astype(np.float64, copy=False)

    first = next(run for runs in parts for run in runs if run is not None).map(number)
    lost = first.map(lambda values: xr.full_like(values, "" if values.dtype.kind in "UO" else np.nan))
    runs = (lost if run is None else run.map(number) for own in parts for run in own)
    blocks, attributes = [], []
    # a Dataset of few numbers takes far more memory than they do, so that of many runs few are held at a time
    while block := list(islice(runs, BLOCK)):
        attributes += [run.attrs for run in block]
        blocks.append(xr.concat(block, "place", combine_attrs="drop_conflicts"))
    whole = xr.concat(blocks, "place", combine_attrs="drop_conflicts")
    whole.attrs = _agreeing(attributes)  # a block of one run has no conflicts
    whole = whole.coarsen(place=len(parts[0])).construct(place=("network", "run"))
    return whole.assign_coords(network=list(networks))


def _agreeing(attributes: Sequence[Mapping[Hashable, Any]]) -> dict[Hashable, Any]:
    """Return the attributes in which all that have them agree."""
    found: dict[Hashable, Any] = {}
    for each in attributes:
        found = {**each, **found}
    return {
        key: value
        for key, value in found.items()
        if all(each.get(key, value) == value for each in attributes)
    }


class Measured(Protocol):
    """A source of responses at matched displacement, on (network, run, ...) or (layer, ...)."""

    @property
    def matched(self) -> xr.Dataset: ...


@runtime_checkable
class Judged(Protocol):
    """A source that reaches a verdict itself, by its own rules if none are given: a study, a grid."""

    def verdict(self, rules: Rules | None = None) -> Verdict: ...


def verdict(
    source: Judged | Measured | xr.Dataset | Sequence[Measured | xr.Dataset], rules: Rules | None = None
) -> Verdict:
    """Return the verdict of the rules on whether distance or intensity costs more at equal displacement.

    Args:
        source: a study or a grid; or a sequence with one probe or one result of `nz.matched` for each run of a
            model, in order.
        rules: those of the study or the grid if None; for other sources, `Rules()`.

    Raises:
        InputError: a source without responses at matched displacement, runs that don't fit together, or
            responses in which a family or a displacement of the rules is missing.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> from nearzero.mechanisms.planted import distance_network, prototype_task
        >>> task = prototype_task(np.random.default_rng(0), examples=200)
        >>> networks = [distance_network(task, np.random.default_rng(run)) for run in range(6)]
        >>> design = nz.Design(families=("signed_shift", "gains", "cap"), targets=(0.5,), draws=1)
        >>> runs = [nz.matched(network, task.x, task.y, design=design) for network in networks]
        >>> nz.verdict(runs, nz.Rules(targets=(0.5,))).finding("abs")  # they measure distances
        'distance costs more'
    """
    if isinstance(source, Judged):
        return source.verdict(rules)
    sources = source if isinstance(source, (list, tuple)) else [source]
    if not sources:
        raise InputError("a verdict needs at least one run; got none")
    runs = [_responses(run) for run in sources]
    first = runs[0]
    if len(runs) == 1 and {"network", "run"} <= set(first.dims):
        return judge(first, rules)
    for run in runs:
        for name in ("network", "family", "side", "target"):
            if not np.array_equal(run[name].values, first[name].values):
                raise InputError(
                    f"the runs don't fit together: {name} is {list(run[name].values)} in one and "
                    f"{list(first[name].values)} in another"
                )
    return judge(
        xr.concat(runs, "run", combine_attrs="drop_conflicts").transpose("network", "run", ...), rules
    )


def _responses(source: Any) -> xr.Dataset:
    """Return the responses of one run on a dimension `network`; the layers of a probe become networks."""
    responses = source if isinstance(source, xr.Dataset) else getattr(source, "matched", None)
    if not isinstance(responses, xr.Dataset) or not {"family", "side", "target"} <= set(responses.dims):
        raise InputError(
            "a verdict needs responses at matched displacement, as nz.matched gives them; got "
            f"{type(source).__name__}"
        )
    if "layer" in responses.dims:
        layers = responses.rename(layer="network")
        return layers.assign_coords(model=("network", ["model"] * layers.sizes["network"]))
    if "network" in responses.dims:
        return responses
    return responses.expand_dims(network=[str(responses.attrs.get("activation", "network"))])
