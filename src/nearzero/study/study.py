"""A study as its user holds it: the spec, the networks and the results of one folder; and the paper in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from nearzero.analysis.verdict import Rules, Verdict, judge
from nearzero.errors import InputError
from nearzero.networks import TwoLayer
from nearzero.paper.audit import audit
from nearzero.paper.audit.evidence import Evidence, Other
from nearzero.paper.audit.values import Audit
from nearzero.report import write as reports
from nearzero.report.prerender import prerender_peak_figures
from nearzero.study.analysis import analyse_networks, analysis_of
from nearzero.study.audit import audit_networks, check_swept, measurements_of
from nearzero.study.data import DataSource, begin
from nearzero.study.journal import Journal
from nearzero.study.provenance import read_record
from nearzero.study.spec import CONDUCT, Spec, resolve, with_rules
from nearzero.study.steps import sweep_networks, train_networks
from nearzero.study.store import Store, needed
from nearzero.support.files import locked

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Study", "reproduce"]

Step = Callable[[Store, DataSource, Journal], None]
# Keys of the spec in which an audit tells a study with the other pixels from this one.
TRAINING = ("data", "units", "runs", "first_seed", "learning_rate", "steps", "batch_size", "precision")


class Study:
    """A study on disk.

    Attributes:
        folder: where it lies.
        spec: everything that it was made from, resolved.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.folder = store.folder
        self.spec: Spec = store.spec

    def __repr__(self) -> str:
        return f"Study({str(self.folder)!r}: {self.title})"

    @classmethod
    def open(cls, folder: str | PathLike[str]) -> Study:
        """Open the study in a folder.

        Raises:
            InputError: there is none.
        """
        return cls(Store.open(Path(folder)))

    @classmethod
    def create(
        cls, folder: str | PathLike[str], preset: str | None = None, settings: Mapping[str, Any] | None = None
    ) -> Study:
        """Begin a study, or take up the one of the same spec that is there.

        Raises:
            InputError: a spec that can't be used, or a folder that holds something else or can't be written.
        """
        return cls(Store.create(Path(folder), resolve(preset, settings)))

    # --- what it holds ---

    @property
    def title(self) -> str:
        """A line that says what was studied."""
        spec = self.spec
        batch = "the whole training set" if spec.batch_size == "all" else f"{spec.batch_size}"
        networks = " and ".join(spec.activations)
        each = "1 run" if spec.runs == 1 else f"{spec.runs} runs"
        training = f"{each} each, {spec.steps:,} steps, batches of {batch}"
        return f"{spec.data}, {networks}, {training}, {spec.pixels} pixels"

    @property
    def conduct(self) -> dict[str, str]:
        """Which reading of the protocol was followed: the named switches and their values."""
        return {name: getattr(self.spec, name) for name in CONDUCT}

    @cached_property
    def response(self) -> xr.Dataset:
        """Accuracy and agreement (0 to 1) on (network, run, family, level, split).

        `level` is the sorted union of all families' levels: NaN stands where a family hasn't one, so take
        ``.sel(family="offset").dropna("level", how="all")``.

        Raises:
            InputError: the study hasn't been swept yet.
        """
        return self._results("response", "sweep")

    @cached_property
    def history(self) -> xr.Dataset:
        """Loss and accuracies along training on (network, run, step), and the steps of the checkpoints.

        Raises:
            InputError: the study hasn't been trained yet.
        """
        return self._results("history", "train")

    @cached_property
    def matched(self) -> xr.Dataset:
        """Responses at matched displacement on (network, run, family, side, target), see `nearzero.analysis.matched`.

        Raises:
            InputError: they haven't been measured yet.
        """
        return self._analysis("matched")

    @cached_property
    def untrained(self) -> xr.Dataset:
        """The same of the networks before their first step, for the families that decide.

        Raises:
            InputError: they haven't been measured yet.
        """
        return self._analysis("untrained")

    @cached_property
    def parts(self) -> xr.Dataset:
        """Near zero against far out, see `nz.near_and_far`, on (network, run, part, replacement, fraction, ...).

        Raises:
            InputError: they haven't been measured yet.
        """
        return self._analysis("parts")

    def verdict(self, rules: Rules | None = None) -> Verdict:
        """Whether distance or intensity costs more, by the rules of the spec unless others are given.

        Raises:
            InputError: the study hasn't been measured at matched displacement yet.
        """
        return judge(self.matched, rules or self.spec.rules)

    def audited(self, against: Study | None = None) -> Audit:
        """The faults of the published study on these networks, from what is on disk.

        Args:
            against: a study with the other conduct of the pixels, for the fault that is about them.

        Raises:
            InputError: these haven't been measured yet, or `against` doesn't fit.
        """
        return audit(self.evidence(against))

    def evidence(self, against: Study | None = None) -> Evidence:
        """Return what an audit rests on; `against` as for `audited`.

        Raises:
            InputError: as for `audited`.
        """
        refusal = f"{self.folder} hasn't been audited yet; run `nearzero audit {self.folder}`"
        measured = needed(measurements_of(self._store), refusal)
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
            other=None if against is None else self._other(against),
            notices=self.notices,
        )

    def _other(self, against: Study) -> Other:
        """Return what an audit takes from a study with the other pixels.

        Raises:
            InputError: it has the same pixels, or isn't trained.
        """
        if self.spec.pixels == against.spec.pixels:
            raise InputError(
                f"{against.folder} has {against.spec.pixels} pixels, as {self.folder} has; give a study with the others"
            )
        differing = [key for key in TRAINING if getattr(self.spec, key) != getattr(against.spec, key)]
        return Other(against.title, against.history, tuple(differing))

    def _analysis(self, group: str) -> xr.Dataset:
        return needed(
            analysis_of(self._store, group),
            f"{self.folder} hasn't been measured at matched displacement yet; run `nearzero verdict {self.folder}`",
        )

    def _results(self, group: str, step: str) -> xr.Dataset:
        return needed(
            self._store.read(group),
            f"{self.folder} has no results of that kind yet; run `nearzero {step} {self.folder}` first",
        )

    @property
    def notices(self) -> tuple[str, ...]:
        """What a reader must know before the numbers: substituted data, runs that diverged."""
        found = self.response.attrs["notices"]
        return (found,) if isinstance(found, str) else tuple(str(each) for each in found)

    @property
    def provenance(self) -> dict[str, Any]:
        """Versions, platform, data hashes and git state, for each sitting."""
        return read_record(self.folder)

    def summary(self) -> dict[str, str]:
        """What the study is, how far it has come and where it comes from, for people."""
        record = self.provenance
        data, sittings = record.get("data", {}), record.get("sittings", [])
        steps = {"trained": "history", "swept": "response"}
        done = [word for word, group in steps.items() if self._store.read(group) is not None]
        versions = sittings[-1]["versions"] if sittings else {}
        return {
            "folder": str(self.folder),
            "done": ", ".join(done) or "nothing yet",
            "data": f"{data['name']} ({data['source']})" if data else self.spec.data,
            "conduct": ", ".join(f"{key}={value}" for key, value in self.conduct.items()),
            "seeds": f"{self.spec.seeds[0]} to {self.spec.seeds[-1]}",
            "sittings": str(len(sittings)),
            "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or "none yet",
        }

    def curve(
        self, network: str, family: str, metric: str = "accuracy", split: str = "train"
    ) -> xr.DataArray:
        """The response of one network to one family, on (run, level)."""
        return (
            self.response[metric].sel(network=network, family=family, split=split).dropna("level", how="all")
        )

    def network(self, activation: str, run: int = 0, *, step: int | None = None) -> TwoLayer:
        """A trained network, or the checkpoint of it at a step (see ``history.checkpoint_step``).

        Raises:
            InputError: there is no such network or checkpoint.
        """
        if activation not in self.spec.activations or not 0 <= run < self.spec.runs:
            raise InputError(
                f"the study has runs 0 to {self.spec.runs - 1} of {', '.join(self.spec.activations)}; "
                f"got run {run} of {activation!r}"
            )
        return self._store.read_network(activation, run, step)

    # --- what can be done with it ---

    def train(self, *, data_dir: str | None = None, console: Console | None = None) -> Study:
        """Train what isn't trained yet."""
        return self._work(train_networks, data_dir, console)

    def sweep(self, *, data_dir: str | None = None, console: Console | None = None) -> Study:
        """Sweep what isn't swept yet."""
        return self._work(sweep_networks, data_dir, console)

    def analyse(self, *, data_dir: str | None = None, console: Console | None = None) -> Study:
        """Measure at matched displacement what isn't measured yet."""
        return self._work(analyse_networks, data_dir, console)

    def run(self, *, data_dir: str | None = None, console: Console | None = None) -> Study:
        """Train, sweep and report."""

        def step(store: Store, data: DataSource, journal: Journal) -> None:
            with prerender_peak_figures():
                train_networks(store, data, journal)
                sweep_networks(store, data, journal)

        self._work(step, data_dir, console)
        return self.report(console=console)

    def _work(self, step: Step, data_dir: str | None, console: Console | None) -> Study:
        with locked(self.folder), Journal.opened(console, self.folder / "log") as journal:
            step(self._store, begin(self._store, data_dir, journal), journal)
        for name in ("response", "history", "matched", "untrained", "parts"):
            self.__dict__.pop(name, None)
        return self

    def report(self, *, console: Console | None = None) -> Study:
        """Write tables and figures, and print the tables on a console."""
        _ = self.response
        with (
            locked(self.folder),
            Journal.opened(console, self.folder / "log") as journal,
            journal.timed("tables and figures written"),
        ):
            reports.write_report(self, self.folder)
        if console is not None:
            reports.print_tables(self, console)
        return self

    def judge(self, *, data_dir: str | None = None, console: Console | None = None) -> Verdict:
        """Measure what isn't measured yet, write the verdict's tables and figure, and print it on a console."""
        found = self.analyse(data_dir=data_dir, console=console).verdict()
        with locked(self.folder):
            reports.write_verdict(found, self.title, self.folder, self.notices)
        if console is not None:
            reports.print_verdict(found, self.title, console)
        return found

    def audit(
        self, against: Study | None = None, *, data_dir: str | None = None, console: Console | None = None
    ) -> Audit:
        """Measure the faults of the published study on these networks, write the tables, and print them on a console.

        Args:
            against: as for `audited`.
            data_dir, console: as for the other steps.
        """
        check_swept(self._store)
        if against is not None:
            self._other(against)
        if measurements_of(self._store) is None:
            self._work(audit_networks, data_dir, console)
        found = self.audited(against)
        with locked(self.folder):
            reports.write_audit(found, self.folder)
        if console is not None:
            reports.print_audit(found, console)
        return found

    def with_rules(self, settings: Mapping[str, Any]) -> Study:
        """The same study under other rules for its verdict, which its spec then says.

        Raises:
            InputError: keys that have nothing to do with the verdict, or values that can't be.
        """
        return Study(Store.create(self.folder, with_rules(self.spec, settings)))


def reproduce(
    preset: str | None = None,
    out: str | PathLike[str] | None = None,
    *,
    runs: int | None = None,
    device: str | None = None,
    data_dir: str | None = None,
    settings: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Study:
    """Reproduce "Neural Networks Use Distance Metrics" (arXiv 2411.17932): both networks, three families, all
    tables and figures.

    Args:
        preset: "quick" (the default; batches of 256, minutes) or "paper" (the whole training set as one batch,
            hours).
        out: the study's folder; ``studies/<preset>`` unless given. A study that is there goes on where it
            was.
        runs: runs of each network, in place of the preset's 20.
        device: where to train: "cpu" (the default), or a PyTorch device such as "cuda".
        data_dir: a folder with the data files, if they aren't to be found or fetched.
        settings: any other keys of `Spec`, such as ``{"offset": "shift"}``.
        console: a rich console for progress and tables; quiet unless given.

    Raises:
        InputError: something given can't be used; nothing is lost, and the message says what to do.
    """
    given = dict(settings or {})
    given |= {key: value for key, value in (("runs", runs), ("device", device)) if value is not None}
    chosen = resolve(preset, given).preset
    study = Study.create(out or Path("studies") / chosen, preset, given)
    return study.run(data_dir=data_dir, console=console)
