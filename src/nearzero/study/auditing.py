"""The step that measures the faults of the published study on a study's own networks, and what an audit rests on.

Like the other steps it looks at what is there and does what is missing. Networks are read from their files and
measured one by one; nothing is trained. What the numbers say is in `nearzero.audit`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from nearzero.audit import (
    MEASURED,
    QUANTILE,
    Evidence,
    Other,
    as_dataset,
    gathered,
    measure,
    published_rows,
)
from nearzero.datasets import Dataset
from nearzero.errors import InputError
from nearzero.study.analysis import analysis_of
from nearzero.study.journal import Journal
from nearzero.study.spec import Spec
from nearzero.study.steps import examples_of
from nearzero.study.store import Store
from nearzero.training.engine import Examples
from nearzero.verdict import judge

if TYPE_CHECKING:
    from nearzero.study.study import Study

__all__ = ["audit_networks", "check_against", "evidence_of", "measurements_of"]

TRAINING = ("data", "units", "runs", "first_seed", "learning_rate", "steps", "batch_size", "precision")


def measurements_of(store: Store) -> xr.Dataset | None:
    """What was measured; None if nothing was, or not what would be measured now."""
    found = store.read_audit()
    return found if found is not None and found.attrs.get("design") == _digest(store.spec) else None


def audit_networks(store: Store, data: Dataset, journal: Journal) -> None:
    """Measure every run of every network; ends with the measurements on disk."""
    spec = store.spec
    if measurements_of(store) is not None:
        journal.note("audit: nothing to do")
        return
    check_swept(store)
    examples = examples_of(spec, data)
    each = [(name, run) for name in spec.activations for run in range(spec.runs)]
    journal.say(f"auditing {len(each)} networks")
    parts = []
    with journal.timed("audited"), journal.bar("auditing", len(each)) as bar:
        for name, run in each:
            parts.append(_measured(store, name, run, examples))
            bar(len(parts))
    if all(part is None for part in parts):
        raise InputError("no run of the study is left to be audited; all of them diverged")
    networks = [parts[first : first + spec.runs] for first in range(0, len(parts), spec.runs)]
    whole = gathered(networks, spec.activations).assign_coords(
        run=np.arange(spec.runs), seed=("run", list(spec.seeds))
    )
    store.write_audit(whole.assign_attrs(design=_digest(spec), **asdict(spec.conduct)))
    store.clear_state("audit-")


def check_swept(store: Store) -> None:
    """Refuse a study that has no response yet, or none of the families that the paper is about."""
    if store.read_results("response") is None:
        raise InputError(f"{store.folder} hasn't been swept yet; run `nearzero sweep {store.folder}` first")
    spec = store.spec
    if not published_rows(spec.families, spec.conduct):
        raise InputError(
            f"the audit is about the families offset, scale and clip; this study has {', '.join(spec.families)}"
        )


def _measured(store: Store, name: str, run: int, examples: dict[str, Examples]) -> xr.Dataset | None:
    """One network's measurements; None if it has none, since it diverged."""
    spec = store.spec
    network = store.read_network(name, run)
    if not network.finite:
        return None
    rows, kept = published_rows(spec.families, spec.conduct), f"audit-{_digest(spec)}-{name}-{run:02d}"
    arrays = store.read_state(kept)
    if arrays is None:
        train, test = ((examples[split].pixels, examples[split].labels) for split in ("train", "test"))
        found = measure(network, train, test, rows=rows, conduct=spec.conduct)
        arrays = {str(key): np.asarray(value.values) for key, value in found.data_vars.items()}
        store.write_state(kept, arrays)
    return as_dataset(arrays, rows)


def evidence_of(study: Study, against: Study | None = None) -> Evidence:
    """What the audit of a study rests on; `against` is one with the other conduct of the pixels.

    Raises:
        InputError: a study that hasn't been measured yet, or one to set against it that doesn't fit.
    """
    store, spec = study._store, study.spec
    measured = measurements_of(store)
    if measured is None:
        raise InputError(f"{study.folder} hasn't been audited yet; run `nearzero audit {study.folder}`")
    matched = analysis_of(store, "matched")
    return Evidence(
        title=study.title,
        response=study.response,
        history=study.history,
        measured=measured,
        pixels=spec.pixels,
        device=spec.device,
        conduct=spec.conduct,
        margin=spec.verdict_margin,
        matched=matched,
        verdict=None if matched is None else judge(matched, spec.rules),
        other=None if against is None else _other(study, against),
        notices=study.notices,
    )


def check_against(study: Study, against: Study) -> None:
    """Refuse a study that can't be set against another, since it has the same pixels or isn't trained.

    Raises:
        InputError: it can't.
    """
    if study.spec.pixels == against.spec.pixels:
        raise InputError(
            f"{against.folder} has {against.spec.pixels} pixels, as {study.folder} has; give a study with the others"
        )
    _ = against.history


def _other(study: Study, against: Study) -> Other:
    check_against(study, against)
    differing = [key for key in TRAINING if getattr(study.spec, key) != getattr(against.spec, key)]
    return Other(against.title, against.history, tuple(differing))


def _digest(spec: Spec) -> str:
    """Eight digits that tell what is measured from other things."""
    rows = [asdict(row) for row in published_rows(spec.families, spec.conduct)]
    what = [rows, asdict(spec.conduct), list(MEASURED), QUANTILE]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
