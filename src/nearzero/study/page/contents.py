"""The contents of a study's page, read from its folder, its networks and its data; `nearzero.page` lays them out."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from nearzero.analysis.verdict import judge
from nearzero.errors import InputError
from nearzero.networks.pixels import Pixels
from nearzero.page.examples import choose_examples
from nearzero.page.study import PageExamples, StudyContents, TrainedNetwork
from nearzero.paper.audit.values import Audit
from nearzero.report.near_far import near_far_table
from nearzero.report.results import StudyResults, display_name, final_values
from nearzero.report.table import Column, Table
from nearzero.report.verdict import untrained_table
from nearzero.study.analysis import analysis_of
from nearzero.study.data import DataSource
from nearzero.study.provenance import read_record
from nearzero.study.spec import resolve
from nearzero.study.store import Store
from nearzero.support.checksums import read_recorded
from nearzero.support.files import parsing

__all__ = ["study_contents"]

POWER = "power.json"


def study_contents(
    store: Store,
    results: StudyResults,
    data: DataSource,
    *,
    audit: Audit | None,
    runs: Sequence[int] | None = None,
) -> StudyContents:
    """Return what the page of a study is made from; nothing is trained or measured at matched displacement anew.

    Args:
        store: the study's files.
        results: its results.
        data: its data.
        audit: its audit, if it was made.
        runs: the runs of each network to embed; the first whose weights are finite if None.

    Raises:
        InputError: there is no such run, or its weights aren't finite.
    """
    spec, matched = store.spec, analysis_of(store, "matched")
    networks = _embedded(store, runs)
    accuracies = {
        (each.name, each.run): float(final_values(results, each.name, "test_accuracy")[each.run]) / 100
        for each in networks
    }
    option = "".join(f" --runs {run}" for run in runs or ())
    return StudyContents(
        results=results,
        folder=str(store.folder),
        runs=tuple(runs or ()),
        command=f"nearzero page {shlex.quote(str(store.folder))}{option}",
        commands=_commands(store, option, audited=audit is not None),
        recipe=(
            f"{spec.units} hidden units; PyTorch's default initialisation of nn.Linear; mean cross-entropy; plain SGD, "
            f"without momentum or weight decay, learning rate {spec.learning_rate:g}, {spec.steps:,} steps, "
            f"{_batches(spec.batch_size)}, {spec.precision}; {'seed' if spec.runs == 1 else 'seeds'} {spec.seed_span}"
        ),
        families=spec.families,
        conduct=spec.conduct,
        rules=spec.rules,
        record=read_record(store.folder),
        matched=matched,
        verdict=None if matched is None else judge(matched, spec.rules),
        audit=audit,
        further=tuple(_further(store, results.title)),
        power=_power_table(store),
        networks=networks,
        examples=_examples(store, data),
        accuracies=accuracies,
    )


def _batches(size: int | str) -> str:
    return "the whole training set in each" if size == "all" else f"batches of {size}"


def _commands(store: Store, option: str, *, audited: bool) -> list[str]:
    """Return the commands that make a study with this spec, everything that its folder holds of it, and its page.

    Settings of the spec that aren't those of its preset are given one by one.
    """
    spec = store.spec
    folder, preset = shlex.quote(str(store.folder)), resolve(spec.preset).model_dump(mode="json")
    changed = {key: value for key, value in spec.model_dump(mode="json").items() if value != preset[key]}
    settings = "".join(f" --set {shlex.quote(f'{key}={_setting(value)}')}" for key, value in changed.items())
    commands = [f"nearzero reproduce --preset {spec.preset} --out {folder}{settings}"]
    groups = {"untrained": " --untrained", "parts": " --near-far"}
    further = "".join(flag for group, flag in groups.items() if analysis_of(store, group) is not None)
    if analysis_of(store, "matched") is not None or further:
        commands.append(f"nearzero verdict {folder}{further}")
    if audited:
        commands.append(f"nearzero audit {folder}")
    return [*commands, f"nearzero page {folder}{option}"]


def _setting(value: Any) -> str:
    """Return a value as `--set` takes it: a text as it is, all else as JSON, which TOML reads too."""
    return value if isinstance(value, str) else json.dumps(value)


def _embedded(store: Store, runs: Sequence[int] | None) -> list[TrainedNetwork]:
    """Return the networks of the page, run by run."""
    spec, found = store.spec, []
    for name in spec.activations:
        for run in range(spec.runs) if runs is None else runs:
            if run not in range(spec.runs):
                raise InputError(f"there is no run {run!r}: the study has the runs 0 to {spec.runs - 1}")
            network = store.read_network(name, run)
            if network.finite:
                found.append(TrainedNetwork(name, run, network, spec.design_of(name, run)))
                if runs is None:
                    break
            elif runs is not None:
                raise InputError(
                    f"run {run} of {display_name(name)} diverged; choose another run for the page"
                )
    return found


def _examples(store: Store, data: DataSource) -> PageExamples:
    split, prepared = data.load(), data.examples(store.spec)
    test = prepared["test"].pixels
    indices = choose_examples(len(test))
    height, width = split.test.images.shape[1:]
    return PageExamples(
        training=prepared["train"].pixels,
        inputs=Pixels(test.values[indices], test.gain, test.shift),
        labels=np.asarray(split.test.labels[indices]),
        shape=(int(height), int(width)),
        white=split.white,
        indices=indices,
        total=len(test),
    )


def _further(store: Store, title: str) -> Iterator[Table]:
    """Yield the tables of the analyses that were made on request."""
    untrained, parts = (analysis_of(store, group) for group in ("untrained", "parts"))
    if untrained is not None:
        yield untrained_table(judge(untrained, store.spec.rules), title)
    if parts is not None:
        yield near_far_table(parts, title)


def _power_table(store: Store) -> Table | None:
    """Return the power table that `nearzero power --out STUDY` left in the study's folder.

    None if there is none, or if it was made by other rules than those of the study.
    """
    path = store.folder / POWER
    if not path.is_file():
        return None
    remedy = "delete it or make it again: `nearzero power STUDY --out STUDY`"
    content = read_recorded(store.folder, path, remedy)
    with parsing(path, remedy):
        found = json.loads(content)
        rows: list[dict[str, Any]] = found["table"]
        names, rules = list(rows[0]), found["rules"]
        cells = tuple(tuple(str(row[name]) for name in names) for row in rows)
    if rules != json.loads(json.dumps(asdict(store.spec.rules))):
        return None
    return Table(
        name="power",
        title="How often the rules are right on planted studies with a known answer",
        caption="Shares of planted studies, with 95 % intervals (Clopper-Pearson).",
        columns=tuple(Column(name, name, kind="text") for name in names),
        rows=cells,
        group=names[0],
    )
