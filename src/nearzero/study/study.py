"""`Study`: the spec, networks and results in a folder; and `reproduce`: the whole paper in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from nearzero.analysis.verdict import Rules, Verdict, judge
from nearzero.errors import InputError, check_choice
from nearzero.networks import TwoLayer
from nearzero.paper.audit import audit
from nearzero.paper.audit.evidence import Evidence
from nearzero.paper.audit.values import Audit
from nearzero.report import write as reports
from nearzero.report.audit import audited_tables
from nearzero.report.near_far import near_far_table
from nearzero.report.prerender import prerender_peak_figures
from nearzero.report.table import Table
from nearzero.report.tables import tables as report_tables
from nearzero.report.verdict import judged_tables, untrained_table
from nearzero.study.analysis import analyse_networks, analysis_of, measured_for
from nearzero.study.audit import audit_networks, check_levels, check_swept, measurements_of, other_study
from nearzero.study.data import DataSource, begin, begin_with, recorded_data
from nearzero.study.journal import Journal
from nearzero.study.plan import WorkPlan, done_of, plan_study
from nearzero.study.provenance import read_record
from nearzero.study.spec import CONDUCT, Spec, resolve, with_rules
from nearzero.study.steps import TrainJob, finish_training, sweep_networks, train_networks, training_jobs
from nearzero.study.store import PAGE, SPEC, Store, needed
from nearzero.support.checksums import FileCheck, remove_recorded, verify_files, working, write_recorded
from nearzero.support.files import claim_folder, write_text
from nearzero.support.netcdf import listed_texts
from nearzero.support.words import number_of
from nearzero.support.workers import Workers

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Study", "reproduce"]

Step = Callable[[Store, DataSource, Journal, Workers], None]
AnyExecutor = Executor | Workers | None
ON_REQUEST = ("untrained", "near_far")  # the tables of a verdict that are written where they are asked for


class Study:
    """A study on disk: its networks, their responses to perturbations, and the verdict on them.

    Attributes:
        folder: the study's folder.
        spec: the complete spec.

    Example:
        >>> import tempfile
        >>> import nearzero as nz
        >>> place = tempfile.TemporaryDirectory()
        >>> settings = {"data": "digits", "runs": 2, "steps": 100}
        >>> study = nz.Study.create(f"{place.name}/digits", "quick", settings)  # next: study.run()
        >>> study.spec.seeds
        (0, 1)
        >>> nz.Study.open(study.folder).title
        'digits, abs and relu, 2 runs each, 100 steps, batches of 256, raw pixels'
        >>> place.cleanup()
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.folder = store.folder
        self.spec: Spec = store.spec

    def __repr__(self) -> str:
        return f"Study({str(self.folder)!r}: {self.title})"

    def _repr_html_(self) -> str:
        """Return what notebooks display: what was found so far, the response curves, and tables."""
        from nearzero.report.notebook import refusal_html, study_html

        try:
            results = None if self._store.read("response") is None else self
            verdict = None if analysis_of(self._store, "matched") is None else self.verdict()
            with self._store.reading():
                return study_html(self.title, self.summary(), results, verdict)
        except InputError as error:
            return refusal_html(f"Study: {self.title}", error)

    @classmethod
    def open(cls, folder: str | PathLike[str]) -> Study:
        """Open the study in a folder.

        Raises:
            InputError: the folder holds no study.
        """
        return cls(Store.open(Path(folder)))

    @classmethod
    def create(
        cls, folder: str | PathLike[str], preset: str | None = None, settings: Mapping[str, Any] | None = None
    ) -> Study:
        """Begin a study, or open the one in the folder if it has the same spec.

        Args:
            folder: the study's folder; it is made if it doesn't exist.
            preset: "quick" (the default) or "paper".
            settings: keys and values of `Spec` that replace those of the preset. A study that was begun before
                keeps the rules of its verdict where they aren't given.

        Raises:
            InputError: the spec can't be used, or the folder holds something else or can't be written.
        """
        given = dict(settings or {})
        return cls(Store.create(Path(folder), lambda rules: resolve(preset, {**rules, **given})))

    # --- the contents of the folder ---

    @property
    def title(self) -> str:
        """Return a line with the data, the networks, their training and their pixels."""
        spec = self.spec
        batch = "the whole training set" if spec.batch_size == "all" else f"{spec.batch_size}"
        networks = " and ".join(spec.activations)
        training = f"{number_of(spec.runs, 'run')} each, {number_of(spec.steps, 'step')}, batches of {batch}"
        return f"{spec.data}, {networks}, {training}, {spec.pixels} pixels"

    @property
    def conduct(self) -> dict[str, str]:
        """Return the reading of the published protocol that was followed, as keys of the spec with values."""
        return {name: getattr(self.spec, name) for name in CONDUCT}

    @property
    def departures(self) -> tuple[str, ...]:
        """Return in what the study departs from the published one; if in anything, the two aren't compared.

        See `Spec.departures`; data that took the place of those in the spec are one of them.
        """
        used = str(self.provenance.get("data", {}).get("name", self.spec.data))
        substituted = () if used == self.spec.data else (f"data = {used}, not {self.spec.data}",)
        return (*self.spec.departures, *substituted)

    @cached_property
    def response(self) -> xr.Dataset:
        """Return accuracy and agreement (0 to 1) on (network, run, family, level, split).

        `level` is the sorted union of the levels of all families. Where a family doesn't have a level, the
        values are NaN; `curve` leaves these levels out.

        Raises:
            InputError: the study hasn't been swept yet.
        """
        return self._results("response", "sweep")

    @cached_property
    def history(self) -> xr.Dataset:
        """Return loss (nats) and accuracies (0 to 1) on (network, run, step), and steps of checkpoints.

        Raises:
            InputError: the study hasn't been trained yet.
        """
        return self._results("history", "train")

    @cached_property
    def matched(self) -> xr.Dataset:
        """Return responses at matched displacement on (network, run, family, side, target), see `nz.matched`.

        Raises:
            InputError: they haven't been measured yet.
        """
        return self._analysis("matched", "hasn't been measured at matched displacement")

    @cached_property
    def untrained(self) -> xr.Dataset:
        """Return `matched` for the networks before their first step, for the families that decide.

        Raises:
            InputError: they haven't been measured yet.
        """
        return self._analysis("untrained", "hasn't been measured before its first step", " --untrained")

    @cached_property
    def parts(self) -> xr.Dataset:
        """Return the effects near zero and far from it on (network, run, part, replacement, fraction, ...).

        See `nz.near_and_far`.

        Raises:
            InputError: they haven't been measured yet.
        """
        return self._analysis("parts", "hasn't been measured near zero and far from it", " --near-far")

    def verdict(self, rules: Rules | None = None) -> Verdict:
        """Return the verdict: which costs more at equal displacement, distance or intensity.

        Args:
            rules: the rules of the verdict; those of the spec if None.

        Raises:
            InputError: the study hasn't been measured at matched displacement yet.
        """
        with self._store.reading() if rules is None else nullcontext():
            return judge(self.matched, rules or self.spec.rules)

    def audited(self, against: Study | None = None) -> Audit:
        """Return the faults of the published study, as measured on these networks; nothing is computed anew.

        Args:
            against: a study with the other pixels (raw or normalized), for the fault that is about pixels.

        Raises:
            InputError: the study hasn't been audited yet, or `against` has the same pixels or isn't trained.
        """
        with self._store.reading():
            return audit(self.evidence(against))

    def evidence(self, against: Study | None = None) -> Evidence:
        """Return the results that an audit is based on; `against` as for `audited`.

        Raises:
            InputError: as for `audited`.
        """
        refusal = f"{self.folder} hasn't been audited yet; run `nearzero audit {self.folder}`"
        measured = needed(measurements_of(self._store), refusal)
        check_levels(self._store, self.response, measured)
        matched = analysis_of(self._store, "matched")
        return Evidence(
            title=self.title,
            response=self.response,
            history=self.history,
            measured=measured,
            pixels=self.spec.pixels,
            device=self.spec.device,
            conduct=self.spec.conduct,
            margin=self.spec.verdict_margin,
            matched=matched,
            verdict=None if matched is None else judge(matched, self.spec.rules),
            other=None if against is None else other_study(self.spec, self.folder, against),
            notices=self.notices,
            departures=self.departures,
        )

    def tables(self) -> dict[str, tuple[Table, ...]]:
        """Return the tables of all that has been measured: of the "report", the "verdict" and the "audit".

        The first tables of a verdict are its comparisons, checks and relative costs.
        """
        made: dict[str, tuple[Table, ...]] = {}
        with self._store.reading():
            if self._store.read("response") is not None:
                made["report"] = report_tables(self)
            if analysis_of(self._store, "matched") is not None:
                made["verdict"] = (*judged_tables(self.verdict(), self.title), *self._further_tables())
            if measurements_of(self._store) is not None:
                made["audit"] = audited_tables(self.audited())
        return made

    def _further_tables(self, *, untrained: bool = True, near_far: bool = True) -> tuple[Table, ...]:
        """Return the tables of what a verdict measures on request, as far as it is asked for and measured."""
        further: list[Table] = []
        if untrained and (before := analysis_of(self._store, "untrained")) is not None:
            further.append(untrained_table(judge(before, self.spec.rules), self.title))
        if near_far and (parts := analysis_of(self._store, "parts")) is not None:
            further.append(near_far_table(parts, self.title))
        return tuple(further)

    def _analysis(self, group: str, missing: str, option: str = "") -> xr.Dataset:
        refusal = f"{self.folder} {missing} yet; run `nearzero verdict {self.folder}{option}`"
        return needed(analysis_of(self._store, group), refusal)

    def _results(self, group: str, step: str) -> xr.Dataset:
        refusal = f"{self.folder} has no results of that kind yet; run `nearzero {step} {self.folder}` first"
        return needed(self._store.read(group), refusal)

    @property
    def notices(self) -> tuple[str, ...]:
        """Return what a reader must know before the numbers: substituted data, runs that diverged."""
        with self._store.reading():
            return tuple(listed_texts(self.response.attrs["notices"]))

    @property
    def provenance(self) -> dict[str, Any]:
        """Return the data's hashes, and versions, platform and git state of each session."""
        return read_record(self.folder)

    def verify(self) -> list[FileCheck]:
        """Return for every file but the log whether it is the one that nearzero wrote, by its checksum.

        Raises:
            InputError: a file can't be read.
        """
        return verify_files(self.folder)

    @property
    def is_trained(self) -> bool:
        """Return whether all networks are trained."""
        return self._store.read("history") is not None

    @property
    def done(self) -> tuple[str, ...]:
        """Return what is done, in words: which steps, and what a verdict measured beside what it needs.

        Raises:
            InputError: a file is damaged.
        """
        return done_of(self._store)

    def summary(self) -> dict[str, str]:
        """Return a table for people: folder, progress, data, conduct, seeds, sessions and versions."""
        record = self.provenance
        data, sessions = record.get("data", {}), record.get("sittings", [])
        versions = sessions[-1]["versions"] if sessions else {}
        return {
            "folder": str(self.folder),
            "done": ", ".join(self.done) or "nothing yet",
            "data": f"{data['name']} ({data['source']})" if data else self.spec.data,
            "conduct": ", ".join(f"{key}={value}" for key, value in self.conduct.items()),
            "seeds": self.spec.seed_span,
            "sessions": str(len(sessions)),
            "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or "none yet",
        }

    def curve(
        self, network: str, family: str, metric: str = "accuracy", split: str = "train"
    ) -> xr.DataArray:
        """Return the response of one network to one family, on (run, level), at the family's levels alone.

        Args:
            network: one of the spec's activations.
            family: one of the spec's families.
            metric: "accuracy" or "agreement".
            split: "train", or "test" if the spec's `test` is true.

        Raises:
            InputError: the study hasn't been swept yet, or doesn't have one of these.
        """
        response = self.response
        metrics = [str(name) for name in response.data_vars if "level" in response[name].dims]
        check_choice("metric", metric, metrics)
        for dimension, name in (("network", network), ("family", family), ("split", split)):
            check_choice(dimension, name, response[dimension].values.tolist())
        return response[metric].sel(network=network, family=family, split=split).dropna("level", how="all")

    def network(self, activation: str, run: int = 0, *, step: int | None = None) -> TwoLayer:
        """Return a trained network, or its checkpoint at a step.

        Args:
            activation: one of the spec's activations.
            run: the number of the run, from 0.
            step: the step of a checkpoint, see ``history.checkpoint_step``; None for the end of training.

        Raises:
            InputError: there is no such network or checkpoint.
        """
        check_choice("activation", activation, self.spec.activations)
        if run not in range(self.spec.runs):
            raise InputError(f"there is no run {run!r}: the study has the runs 0 to {self.spec.runs - 1}")
        return self._store.read_network(activation, run, step)

    # --- the steps ---

    def train(
        self, *, data_dir: str | None = None, console: Console | None = None, executor: AnyExecutor = None
    ) -> Study:
        """Train the networks that aren't trained yet.

        Args:
            data_dir: a folder with the data files, if they can't be found or fetched.
            console: a rich console for progress; quiet if None.
            executor: does the work, any `concurrent.futures.Executor`, see `nearzero.Workers`; this process if None.
        """
        return self._run_step(train_networks, data_dir, console, executor)

    def sweep(
        self, *, data_dir: str | None = None, console: Console | None = None, executor: AnyExecutor = None
    ) -> Study:
        """Sweep the networks, if that isn't done yet: apply every family at all of its levels.

        Args:
            data_dir, console, executor: as for `train`.
        """
        return self._run_step(sweep_networks, data_dir, console, executor)

    def analyse(
        self,
        *,
        untrained: bool = False,
        near_far: bool = False,
        data_dir: str | None = None,
        console: Console | None = None,
        executor: AnyExecutor = None,
    ) -> Study:
        """Measure the networks at matched displacement, if that isn't done yet.

        Args:
            untrained: measure the networks before their first step as well.
            near_far: measure the effects near zero and far from it as well.
            data_dir, console, executor: as for `train`.
        """
        asked = {"matched": True, "untrained": untrained, "parts": near_far}
        groups = tuple(group for group, wanted in asked.items() if wanted)
        return self._run_step(partial(analyse_networks, groups=groups), data_dir, console, executor)

    def run(
        self, *, data_dir: str | None = None, console: Console | None = None, executor: AnyExecutor = None
    ) -> Study:
        """Train, sweep and report; parts that are done already are kept.

        Args:
            data_dir, console, executor: as for `train`. Tables, figures and the page are made in this process.

        Example:
            >>> from concurrent.futures import ProcessPoolExecutor
            >>> import nearzero as nz
            >>> with ProcessPoolExecutor(2) as pool:  # doctest: +SKIP
            ...     nz.Study.create("studies/mine", "quick").run(executor=pool)
        """

        def step(store: Store, data: DataSource, journal: Journal, workers: Workers) -> None:
            with prerender_peak_figures():
                train_networks(store, data, journal, workers)
                sweep_networks(store, data, journal, workers)

        self._run_step(step, data_dir, console, executor)
        self.report(console=console)
        with (
            Journal.opened(console, self.folder / "log") as journal,
            journal.timed("page written", "making the page"),
        ):
            self.to_html(self.folder / PAGE, data_dir=data_dir)
        return self

    def plan(
        self,
        steps: Sequence[str] = ("train", "sweep"),
        *,
        data_dir: str | None = None,
        executor: AnyExecutor = None,
    ) -> WorkPlan:
        """Return the jobs of some steps, how many are done, and what the others take; nothing is written.

        Time comes from pilots: some updates of a network, and measurements on some of the examples.

        Args:
            steps: of "train", "sweep", "matched", "untrained", "parts" and "audit".
            data_dir, executor: as for `train`; on an executor nothing is done.

        Raises:
            InputError: an unknown step, or the data can't be found.
        """
        data = recorded_data(self._store, data_dir, Journal.unlogged(None))
        return plan_study(self._store, self.title, data, Workers.of(executor), steps)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the lock of the folder, whose spec must be the one with which this study was opened.

        Raises:
            InputError: another process works in the folder, or the spec was changed.
        """
        with working(self.folder):
            self._store.check_unchanged()
            yield

    def _run_step(
        self, step: Step, data_dir: str | None, console: Console | None, executor: AnyExecutor
    ) -> Study:
        """Do a step, and drop the cached results, which it may have changed."""
        workers = Workers.of(executor)
        with self._held(), Journal.opened(console, self.folder / "log") as journal:
            step(self._store, begin(self._store, data_dir, journal), journal, workers)
        for name in ("response", "history", "matched", "untrained", "parts"):
            self.__dict__.pop(name, None)
        return self

    @contextmanager
    def training(
        self, data: DataSource, console: Console | None, workers: Workers
    ) -> Iterator[tuple[list[TrainJob], Callable[[], None]]]:
        """Hold the folder, and yield the jobs that train the networks, and a function that ends their training."""
        with self._held(), Journal.opened(console, self.folder / "log") as journal:
            jobs = training_jobs(self._store, begin_with(self._store, data), journal, workers)
            yield jobs, lambda: finish_training(self._store, jobs, journal)
        self.__dict__.pop("history", None)

    def report(self, *, console: Console | None = None) -> Study:
        """Write tables and figures.

        Args:
            console: a rich console for progress; quiet if None.

        Raises:
            InputError: the study hasn't been swept yet.
        """
        _ = self.response
        with (
            self._held(),
            Journal.opened(console, self.folder / "log") as journal,
            journal.timed("tables and figures written", "drawing figures and writing tables"),
            self._store.reading(),
        ):
            reports.write_report(self, self.folder)
        return self

    def to_html(
        self,
        path: str | PathLike[str] | None = None,
        *,
        runs: Sequence[int] | None = None,
        data_dir: str | None = None,
        console: Console | None = None,
    ) -> str:
        """Return one self-contained HTML page with everything about the study; write it to a file if one is given.

        The page opens from disk and needs no network. It embeds networks and 2,000 test examples, and computes the
        effect of any scale, offset and clip of their hidden units as its reader moves the sliders.

        Args:
            path: the file to write; none if None.
            runs: the runs of each network that the page embeds; the first one that didn't diverge if None.
            data_dir, console: as for `train`.

        Raises:
            InputError: the study hasn't been swept yet, there is no such run, or it diverged.
        """
        from nearzero.page.study import study_page  # no other step needs the page
        from nearzero.study.page.contents import study_contents

        _ = self.response
        data = recorded_data(self._store, data_dir, Journal.unlogged(console))
        audited = None if measurements_of(self._store) is None else self.audited()
        page = study_page(study_contents(self._store, self, data, audit=audited, runs=runs))
        if path is None:
            return page
        place, folder = Path(path).resolve(), self.folder.resolve()
        if place.is_relative_to(folder):
            write_recorded(self.folder, self.folder / place.relative_to(folder), page.encode())
        else:
            write_text(place, page)
        return page

    def judge(
        self,
        *,
        untrained: bool = False,
        near_far: bool = False,
        data_dir: str | None = None,
        console: Console | None = None,
        executor: AnyExecutor = None,
    ) -> Verdict:
        """Return the verdict, with its tables and figures written; measure first if necessary.

        Args:
            untrained, near_far: as for `analyse`; what is asked for is written as a table too.
            data_dir, console, executor: as for `train`.
        """
        asked: dict[str, Any] = {"untrained": untrained, "near_far": near_far}
        self.analyse(**asked, data_dir=data_dir, console=console, executor=executor)
        judged = self.verdict()
        further = self._further_tables(untrained=untrained, near_far=near_far)
        with self._held():
            reports.write_verdict(judged, self.title, self.folder, self.notices, further)
        return judged

    def ask(
        self,
        settings: Mapping[str, Any],
        *,
        data_dir: str | None = None,
        console: Console | None = None,
        executor: AnyExecutor = None,
    ) -> Verdict:
        """Return the verdict by other rules; nothing in the study's folder is changed.

        What was measured is used again. Other targets or draws are measured in memory and not kept;
        `with_rules` and `judge` keep them.

        Args:
            settings: as for `with_rules`.
            data_dir, console, executor: as for `train`.

        Raises:
            InputError: as for `with_rules`, or the study isn't trained yet.
        """
        spec, journal = with_rules(self.spec, settings), Journal.unlogged(console)
        matched = analysis_of(self._store, "matched", spec)
        if matched is None:
            data = recorded_data(self._store, data_dir, journal)
            matched = measured_for(spec, self._store, data, journal, Workers.of(executor))
        return judge(matched, spec.rules)

    def audit(
        self,
        against: Study | None = None,
        *,
        data_dir: str | None = None,
        console: Console | None = None,
        executor: AnyExecutor = None,
    ) -> Audit:
        """Return the faults of the published study on these networks, with the tables written.

        Measure them first if that isn't done yet.

        Args:
            against: as for `audited`.
            data_dir, console, executor: as for `train`.

        Raises:
            InputError: the study hasn't been swept yet, has no family of the paper's, or `against` doesn't
                fit.
        """
        check_swept(self._store)
        if against is not None:
            other_study(self.spec, self.folder, against)
        if measurements_of(self._store) is None:
            self._run_step(audit_networks, data_dir, console, executor)
        outcome = self.audited(against)
        with self._held():
            reports.write_audit(outcome, self.folder)
        return outcome

    def with_rules(self, settings: Mapping[str, Any]) -> Study:
        """Return the same study with other rules for its verdict; its spec on disk is changed.

        The tables of the untrained networks and of the effects near zero, which `judge` writes where they are asked
        for, are those of the rules before, and are removed.

        Args:
            settings: keys of `Spec` that begin with `verdict_`, and their values.

        Raises:
            InputError: a key that isn't such a rule, or a value that can't be used.
        """
        with working(self.folder):
            current = Store.open(self.folder)  # read again: another process may have changed its rules
            current.check_spec(self.spec)
            changed = Store(self.folder, with_rules(current.spec, settings))
            if changed.spec != current.spec:
                changed.write_spec()
                for name in ON_REQUEST:
                    for path in (self.folder / "tables").glob(f"{name}.*"):
                        remove_recorded(self.folder, path)
        return Study(changed)


def reproduce(
    preset: str | None = None,
    out: str | PathLike[str] | None = None,
    *,
    runs: int | None = None,
    device: str | None = None,
    data_dir: str | None = None,
    settings: Mapping[str, Any] | None = None,
    console: Console | None = None,
    executor: AnyExecutor = None,
) -> Study:
    """Reproduce "Neural Networks Use Distance Metrics" (Oursland, arXiv 2411.17932, 2024).

    Train both networks, sweep three families, write all tables and figures, and return the study. If the call
    is interrupted, the same call continues.

    Args:
        preset: "quick" (the default; batches of 256, minutes) or "paper" (the whole training set as one
            batch, hours).
        out: the study's folder; ``studies/<preset>`` if None. If it holds a study with the same spec, that
            study is continued.
        runs: runs of each network, in place of the preset's 20.
        device: the device for training: "cpu" (the default), or a PyTorch device such as "cuda".
        data_dir: a folder with the data files, if they can't be found or fetched.
        settings: any other keys of `Spec`, such as ``{"offset": "shift"}``.
        console: a rich console for progress; quiet if None.
        executor: does the work, any `concurrent.futures.Executor`, see `nearzero.Workers`; this process if None.

    Raises:
        InputError: an argument can't be used; the message says what to do, and results on disk are kept.

    Example:
        >>> import nearzero as nz
        >>> study = nz.reproduce("quick", runs=5, settings={"activations": "relu"})  # doctest: +SKIP
        >>> nz.reproduce("papr")
        Traceback (most recent call last):
            ...
        nearzero.errors.InputError: unknown preset 'papr': did you mean 'paper'? known are paper, quick
    """
    given = dict(settings or {})
    given |= {key: value for key, value in (("runs", runs), ("device", device)) if value is not None}
    chosen = resolve(preset, given).preset
    folder = claim_folder(Path(out or Path("studies") / chosen), SPEC)
    with working(
        folder
    ):  # from the first look at the spec on, so that a call that is refused has changed nothing
        study = Study.create(folder, preset, given)
        return study.run(data_dir=data_dir, console=console, executor=executor)
