"""The step that measures what a verdict rests on: every run of a study at matched displacement.

Like the other steps it looks at what is there and does what is missing. Untrained networks, the same runs before
their first step, are measured beside the trained ones: what they show is not learned.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import xarray as xr

from nearzero.datasets import Dataset
from nearzero.errors import InputError
from nearzero.matched import MEASURES, SIDES, Design, matched
from nearzero.networks import TwoLayer, initial_stack
from nearzero.study.journal import Journal
from nearzero.study.spec import Spec
from nearzero.study.steps import examples_of
from nearzero.study.store import Store
from nearzero.training.engine import Examples
from nearzero.training.train import NEVER
from nearzero.verdict import gathered

__all__ = ["analyse_networks", "analysis_of"]


def analysis_of(store: Store, group: str) -> xr.Dataset | None:
    """The analysis of the design that the spec asks for; None if there is none, or one of another design."""
    found = store.read_analysis(group)
    return found if found is not None and found.attrs.get("design") == _digest(store.spec.design) else None


def analyse_networks(store: Store, data: Dataset, journal: Journal) -> None:
    """Measure every run of every network at matched displacement, trained and untrained; ends with both on disk."""
    spec = store.spec
    if analysis_of(store, "matched") is not None:
        journal.note("analysis: nothing to do")
        return
    history = store.read_results("history")
    if history is None:
        raise InputError(
            f"{store.folder} has no trained networks yet; run `nearzero train {store.folder}` first"
        )
    examples = examples_of(spec, data)["train"]
    design = spec.design
    deciding = replace(design, families=(*spec.verdict_distance, *spec.verdict_intensity))
    untrained = {
        name: initial_stack(
            spec.seeds, name, inputs=examples.pixels.values.shape[1], units=spec.units, classes=data.classes
        )
        for name in spec.activations
    }
    each = [(name, run) for name in spec.activations for run in range(spec.runs)]
    lost = history.diverged_at.transpose("network", "run").values.ravel() != NEVER
    journal.say(f"measuring {len(each)} networks at {len(design.targets)} displacements")
    parts: dict[str, list[xr.Dataset | None]] = {"matched": [], "untrained": []}
    with journal.timed("measured at matched displacement"), journal.bar("measuring", len(each)) as bar:
        for (name, run), diverged in zip(each, lost, strict=True):
            network = None if diverged else store.read_network(name, run)
            parts["matched"].append(_measured(store, f"{name}-{run:02d}", network, examples, design))
            before = untrained[name][run]
            parts["untrained"].append(
                _measured(store, f"untrained-{name}-{run:02d}", before, examples, deciding)
            )
            bar(len(parts["matched"]))
    designs = {"matched": design, "untrained": deciding}
    store.write_analysis({group: _assembled(found, spec, designs[group]) for group, found in parts.items()})
    store.clear_state()


def _measured(
    store: Store, what: str, network: TwoLayer | None, examples: Examples, design: Design
) -> xr.Dataset | None:
    """One network's responses; None if it has none, since it diverged."""
    if network is None or not network.finite:
        return None
    kept = f"matched-{_digest(design)}-{what}"
    arrays = store.read_state(kept)
    if arrays is None:
        found = matched(network, examples.pixels, examples.labels, design=design)
        arrays = {str(name): np.asarray(value.values) for name, value in found.data_vars.items()}
        store.write_state(kept, arrays)
    dims = ("family", "side", "target")
    data: dict[str, Any] = {name: (dims if value.ndim else (), value) for name, value in arrays.items()}
    coords = {"family": list(design.families), "side": list(SIDES), "target": list(design.targets)}
    return xr.Dataset(data, coords)


def _assembled(parts: Sequence[xr.Dataset | None], spec: Spec, design: Design) -> xr.Dataset:
    """Responses of all runs, in order, on (network, run, family, side, target); NaN for runs that diverged."""
    present = [each for each in parts if each is not None]
    if not present:
        raise InputError("no run of the study is left to be measured; all of them diverged")
    lost = xr.full_like(present[0].astype(np.float64), np.nan)
    rows = [each if each is not None else lost for each in parts]
    networks = [rows[first : first + spec.runs] for first in range(0, len(rows), spec.runs)]
    found = gathered(networks, spec.activations).assign_coords(
        run=np.arange(spec.runs), seed=("run", list(spec.seeds))
    )
    for name in found.data_vars:
        found[name].attrs["long_name"] = MEASURES.get(str(name), str(name).replace("_", " "))
    return found.assign_attrs(design=_digest(spec.design), draws=design.draws, **asdict(spec.conduct))


def _digest(design: Design) -> str:
    """Eight digits that tell a design from others."""
    return hashlib.sha256(json.dumps(asdict(design), sort_keys=True).encode()).hexdigest()[:8]
