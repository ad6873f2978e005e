"""The step that measures what a verdict rests on, and what stands beside it, for every run of a study.

Like the other steps it looks at what is there and does what is missing. Three groups: responses at matched
displacement; the same of the untrained networks, the runs before their first step, for what they show isn't learned;
and near zero against far out (`nearzero.parts`).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import xarray as xr

from nearzero.datasets import Dataset
from nearzero.errors import InputError
from nearzero.matched import Design, matched
from nearzero.networks import TwoLayer, initial_stack
from nearzero.parts import near_and_far
from nearzero.study.journal import Journal
from nearzero.study.spec import Spec
from nearzero.study.steps import examples_of
from nearzero.study.store import Store
from nearzero.training.engine import Examples
from nearzero.training.train import NEVER
from nearzero.verdict import gathered

__all__ = ["analyse_networks", "analysis_of"]

GROUPS = {
    "matched": "responses at matched displacement",
    "untrained": "the same before their first step",
    "parts": "near zero against far out",
}


def analysis_of(store: Store, group: str) -> xr.Dataset | None:
    """A group of the analysis; None if there is none, or one of another design than the spec asks for."""
    found = store.read_analysis(group)
    return found if found is not None and found.attrs.get("design") == _digest(store.spec.design) else None


def analyse_networks(store: Store, data: Dataset, journal: Journal) -> None:
    """Measure every run of every network, group by group: "matched", "untrained" and "parts"; ends with all on disk."""
    spec = store.spec
    groups = {group: analysis_of(store, group) for group in GROUPS}
    if all(found is not None for found in groups.values()):
        journal.note("analysis: nothing to do")
        return
    history = store.read_results("history")
    if history is None:
        raise InputError(
            f"{store.folder} has no trained networks yet; run `nearzero train {store.folder}` first"
        )
    lost = history.diverged_at.transpose("network", "run").values != NEVER
    bench = _Bench(store, examples_of(spec, data)["train"], data.classes)
    each = [(name, run) for name in spec.activations for run in range(spec.runs)]
    for group in (group for group in GROUPS if groups[group] is None):
        journal.say(f"measuring {len(each)} networks: {GROUPS[group]}")
        parts: list[xr.Dataset | None] = []
        with journal.timed(f"measured, {group}"), journal.bar("measuring", len(each)) as bar:
            for name, run in each:
                diverged = bool(lost[spec.activations.index(name), run])
                parts.append(None if diverged else bench.measured(group, name, run))
                bar(len(parts))
        groups[group] = _assembled(parts, spec)
    store.write_analysis({group: found for group, found in groups.items() if found is not None})
    store.clear_state()


class _Bench:
    """The networks of a study, and the examples on which they are measured."""

    def __init__(self, store: Store, examples: Examples, classes: int) -> None:
        self._store, self._spec, self._examples = store, store.spec, examples
        inputs = examples.pixels.values.shape[1]
        self._untrained = {
            name: initial_stack(
                self._spec.seeds, name, inputs=inputs, units=self._spec.units, classes=classes
            )
            for name in self._spec.activations
        }

    def measured(self, group: str, name: str, run: int) -> xr.Dataset | None:
        """One network's responses, kept until the analysis is whole; None if it has none, since it diverged."""
        kept = f"{group}-{_digest(self._spec.design)}-{name}-{run:02d}"
        state = self._store.read_state(kept)
        if state is not None:
            return xr.load_dataset(io.BytesIO(state["dataset"].tobytes()), engine="h5netcdf")
        network = self._untrained[name][run] if group == "untrained" else self._store.read_network(name, run)
        if not network.finite:
            return None
        found = self._measure(group, network, self._spec.design_of(run))
        content = bytes(found.to_netcdf(engine="h5netcdf") or b"")
        self._store.write_state(kept, {"dataset": np.frombuffer(content, np.uint8)})
        return found

    def _measure(self, group: str, network: TwoLayer, design: Design) -> xr.Dataset:
        x, y = self._examples.pixels, self._examples.labels
        if group == "parts":
            found = near_and_far(
                network, x, y, targets=design.targets, draws=design.draws, seed=design.draw_seed
            )
        else:
            if group == "untrained":
                deciding = (*self._spec.verdict_distance, *self._spec.verdict_intensity)
                design = replace(design, families=deciding)
            found = matched(network, x, y, design=design)
        of_runs = ("seed", "first_draw")  # in which they differ
        kept = {
            key: value
            for key, value in found.attrs.items()
            if isinstance(value, str | int | float) and key not in of_runs
        }
        return found.drop_attrs(deep=False).assign_attrs(kept)


def _assembled(parts: Sequence[xr.Dataset | None], spec: Spec) -> xr.Dataset:
    """Responses of all runs, in order, on (network, run, ...); NaN for runs that diverged."""
    if all(each is None for each in parts):
        raise InputError("no run of the study is left to be measured; all of them diverged")
    networks = [parts[first : first + spec.runs] for first in range(0, len(parts), spec.runs)]
    found = gathered(networks, spec.activations).assign_coords(
        run=np.arange(spec.runs), seed=("run", list(spec.seeds))
    )
    return found.assign_attrs(design=_digest(spec.design), **asdict(spec.conduct))


def _digest(design: Design) -> str:
    """Eight digits that tell a design from others."""
    return hashlib.sha256(json.dumps(asdict(design), sort_keys=True).encode()).hexdigest()[:8]
