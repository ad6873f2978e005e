"""`Grid`, and the files in its folder.

    grid.toml         the complete spec
    provenance.json   data hashes, and versions, platform and git state of each session
    log               lines with times
    responses.nc      the responses of all networks
    tables/, figures/
    checksums         of all other files but the log, see `nearzero.support.checksums`
    state/            results of jobs that are done, until all are, see `nearzero.study.jobs`

Networks are kept in another folder (`nearzero.grid.networks`), so that grids can share them. They are a study's, or
the user's own (`nearzero.grid.own`).
"""

from __future__ import annotations

import json
import tomllib
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tomli_w
import xarray as xr

from nearzero.analysis.verdict import Rules, Verdict, judge
from nearzero.errors import InputError
from nearzero.evaluators.base import EARLIER_HALVES
from nearzero.grid.own.spec import relative_to
from nearzero.grid.spec import GridSpec, complete, kept_values, load_grid, load_kept_grid
from nearzero.study.data import DataSource, load_data
from nearzero.study.jobs import forget, results, run
from nearzero.study.journal import Journal
from nearzero.study.provenance import RECORD, read_record, record_session
from nearzero.study.store import remedy
from nearzero.support.checksums import (
    FileCheck,
    check_inside,
    read_recorded,
    verify_files,
    working,
    write_recorded,
)
from nearzero.support.files import claim_folder, parsing
from nearzero.support.netcdf import load_netcdf, netcdf_content
from nearzero.support.words import number_of
from nearzero.support.workers import Workers

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from rich.console import Console

    from nearzero.grid.networks import NetworkSource
    from nearzero.grid.own.source import OwnNetworks
    from nearzero.study.plan import WorkPlan

__all__ = ["Grid", "grid_remedy"]

Value = TypeVar("Value")

SPEC, RESPONSES = "grid.toml", "responses.nc"
SHOWN = {
    "title",
    "question",
    "verdict_margin",
    "verdict_test",
}  # keys of the spec that don't affect responses


class Grid:
    """A grid on disk: studies that differ in one thing, and the verdict on each.

    Attributes:
        folder: the grid's folder.
        spec: the grid's spec.

    Example:
        >>> import tempfile
        >>> import nearzero as nz
        >>> place = tempfile.TemporaryDirectory()
        >>> study = {"data": "digits", "runs": 2}
        >>> spec = nz.GridSpec(title="Width", vary="units", values=[16, 64], study=study)
        >>> grid = nz.Grid.create(f"{place.name}/width", spec)  # run() trains and measures
        >>> nz.Grid.open(grid.folder).title.split("; ")[2:]
        ['2 runs each, 5,000 steps, batches of 256, learning rate 0.001', 'test data, 5 draws, r of a']
        >>> place.cleanup()
    """

    def __init__(self, folder: Path, spec: GridSpec) -> None:
        self.folder, self.spec = folder, spec

    def __repr__(self) -> str:
        return f"Grid({str(self.folder)!r}: {self.title})"

    def _repr_html_(self) -> str:
        """Return what notebooks display: the verdict on each network as a table."""
        from nearzero.report.notebook import grid_html, refusal_html

        measured = (self.folder / RESPONSES).is_file()
        try:
            return grid_html(self.title, self.spec.question, self if measured else None)
        except InputError as error:
            return refusal_html(f"Grid: {self.title}", error)

    @classmethod
    def open(cls, folder: str | PathLike[str]) -> Grid:
        """Open the grid in a folder.

        Raises:
            InputError: the folder holds no grid.
        """
        path = Path(folder) / SPEC
        if not path.is_file():
            raise InputError(
                f"{folder} isn't a grid: it has no {SPEC}; `nearzero grid SPEC --out {folder}` makes one"
            )
        check_inside(Path(folder), path)
        return cls(Path(folder), load_kept_grid(path))

    @classmethod
    def create(cls, folder: str | PathLike[str], spec: GridSpec | str | PathLike[str]) -> Grid:
        """Begin a grid, or open the one in the folder if it has the same spec.

        A spec whose first run was refused, so that nothing was trained or measured, is replaced.

        Args:
            folder: the grid's folder; it is made if it doesn't exist.
            spec: the spec, the path of its TOML file, or the name of one that comes with nearzero, such as
                "width"; see `nearzero.grid.spec.load_grid`.

        Raises:
            InputError: the spec can't be used, or the folder holds something else or can't be written.
        """
        proposed = cls.proposed(folder, spec)  # refuses what can't be used before a folder is made
        folder = proposed.folder
        spec = proposed.spec
        if _is_begun(folder):
            return proposed
        with working(claim_folder(folder, SPEC)):
            # looked for again: another process may have begun a grid in the meantime
            chosen = _completed(spec, folder)
            if not _is_begun(folder):
                write_recorded(folder, folder / SPEC, _text(chosen, folder).encode())
        return cls(folder, chosen)

    @classmethod
    def proposed(cls, folder: str | PathLike[str], spec: GridSpec | str | PathLike[str]) -> Grid:
        """Return the grid that `create` would begin or open; nothing is written.

        Args:
            folder, spec: as for `create`.

        Raises:
            InputError: the spec can't be used, or the folder holds a grid with another one.
        """
        spec = spec if isinstance(spec, GridSpec) else load_grid(spec)
        folder = Path(folder)
        return cls(folder, _completed(spec, folder))

    @property
    def title(self) -> str:
        """Return a line with the grid's title, the training, and how it was measured, without what varies.

        r is the range of a unit, of its activation a or of its pre-activation z, by which levels are scaled.
        """
        specs = [point.spec for point in self.spec.points]
        spec = specs[0]
        runs = f"{number_of(spec.runs, 'run')} each"
        draws = number_of(spec.verdict_draws, "draw")
        if self.spec.network is not None:
            name = self.spec.network.data
            trained = [*([name] if name is not None and ":" not in name else []), runs]
            return "; ".join((self.spec.title, ", ".join(trained), f"{self.spec.split} data, {draws}"))
        batch = "the whole training set" if spec.batch_size == "all" else f"{spec.batch_size}"
        data = {"data": spec.data, "pixels": f"{spec.pixels} pixels", "units": number_of(spec.units, "unit")}
        training = {
            "runs": runs,
            "steps": number_of(spec.steps, "step"),
            "batch_size": f"batches of {batch}",
            "learning_rate": f"learning rate {spec.learning_rate:g}",
        }
        sides = sorted({"a" if each.range == "post" else "z" for each in specs})
        parts = [
            ", ".join(words for key, words in part.items() if key != self.spec.vary)
            for part in (data, training)
        ]
        return "; ".join(
            (self.spec.title, *parts, f"{self.spec.split} data, {draws}, r of {' or '.join(sides)}")
        )

    @cached_property
    def responses(self) -> xr.Dataset:
        """Return responses at matched displacement on (network, run, family, side, target), see `nz.matched`.

        Raises:
            InputError: they haven't been measured yet, or aren't those of the spec.
        """
        path = self.folder / RESPONSES
        if not path.is_file():
            raise InputError(
                f"{self.folder} hasn't been measured yet; run `nearzero grid {self.folder / SPEC}`"
            )
        again = grid_remedy(self.folder, RESPONSES)
        responses = load_netcdf(read_recorded(self.folder, path, again), path, again).to_dataset()
        with parsing(f"the spec in {path}", again):
            made_with = tomllib.loads(responses.attrs.get("spec", ""))
        if made_with:  # files without it are older than the attribute
            self._check_spec(path, made_with)
        runs, wanted = responses.sizes.get("run", 0), self.spec.points[0].spec.runs
        if runs != wanted:
            raise InputError(
                f"{path} has {number_of(runs, 'run')} of each network, and {SPEC} says {wanted}; {again}"
            )
        responses.attrs.setdefault("halves", EARLIER_HALVES)  # files without it are older than the attribute
        return responses

    def _check_spec(self, path: Path, made_with: dict[str, Any]) -> None:
        """Refuse responses that belong to another spec than the grid's.

        Raises:
            InputError: names a key in which they differ.
        """
        settings = made_with | made_with.get("study", {})
        own = kept_values(self.spec, self.folder)
        current = own | own["study"]
        for key in sorted((settings.keys() | current.keys()) - SHOWN - {"study"}):
            if settings.get(key) != current.get(key):
                raise InputError(
                    f"{path} was made with {key} = {settings.get(key)!r}, but {SPEC} says {current.get(key)!r}; "
                    f"restore {SPEC}, or begin another grid"
                )

    @property
    def notices(self) -> tuple[str, ...]:
        """Return what a reader must know before the numbers: substituted data, runs that are missing."""
        return tuple(map(str, self._attribute("notices", list)))

    def _attribute(self, name: str, kind: type[Value]) -> Value:
        """Return an attribute of the responses, which is kept as JSON.

        Raises:
            InputError: it is missing, damaged, or of another kind.
        """
        responses = self.responses
        with parsing(self.folder / RESPONSES, grid_remedy(self.folder, RESPONSES)):
            value = json.loads(responses.attrs[name])
            if not isinstance(value, kind):
                raise TypeError(f"its attribute {name!r} isn't a {kind.__name__}")
            return value

    @property
    def provenance(self) -> dict[str, Any]:
        """Return the data's hashes, and versions, platform and git state of each session; empty at the start.

        Raises:
            InputError: the record can't be read.
        """
        return read_record(self.folder, keys=())

    def verify(self) -> list[FileCheck]:
        """Return for every file but the log whether it is the one that nearzero wrote, by its checksum.

        Raises:
            InputError: a file can't be read.
        """
        return verify_files(self.folder)

    def verdict(self, rules: Rules | None = None) -> Verdict:
        """Return the verdict on each network; Holm's adjustment is over all networks of the grid.

        Args:
            rules: the rules of the verdict; those of the spec if None.

        Raises:
            InputError: the grid hasn't been measured yet.
        """
        responses, again = self.responses, grid_remedy(self.folder, RESPONSES)
        with parsing(self.folder / RESPONSES, again) if rules is None else nullcontext():
            return judge(responses, rules or self.spec.rules)

    def read(self) -> dict[str, Verdict]:
        """Return a verdict for each family in the spec's `read`, with it in the place of distance."""
        rules = self.spec.rules
        return {name: self.verdict(replace(rules, distance=(name,))) for name in self.spec.read}

    def run(
        self,
        *,
        networks: str | PathLike[str] | None = None,
        data_dir: str | None = None,
        console: Console | None = None,
        executor: Executor | Workers | None = None,
    ) -> Grid:
        """Train and measure the networks that aren't measured yet, and write tables and figure.

        Args:
            networks: the folder of the networks; "networks" beside the grid's folder if None.
            data_dir: a folder with the data files, if they can't be found or fetched.
            console: a rich console for progress; quiet if None.
            executor: does the work, any `concurrent.futures.Executor`, see `nearzero.Workers`; this process if None.

        Raises:
            InputError: the data can't be found, or aren't those that the grid was begun with.
        """
        from nearzero.report.write import write_grid

        workers = Workers.of(executor)
        with working(self.folder):
            if load_kept_grid(self.folder / SPEC) != self.spec:
                raise InputError(f"{self.folder / SPEC} was changed in the meantime; run the command again")
            if (self.folder / RESPONSES).exists():
                self._check_code()
            else:
                folder = self._networks_folder(networks)
                with Journal.opened(console, self.folder / "log") as journal:
                    self._measure(folder, data_dir, journal, workers)
            self.__dict__.pop("responses", None)
            write_grid(self, self.folder)
        return self

    def plan(
        self,
        *,
        networks: str | PathLike[str] | None = None,
        data_dir: str | None = None,
        executor: Executor | Workers | None = None,
    ) -> WorkPlan:
        """Return the jobs of the grid, how many are done, and what the others take; nothing is written.

        Time comes from pilots at the first and the last point: some updates, and measurements on some of the
        examples.

        Args:
            networks, data_dir, executor: as for `run`; on an executor nothing is done.

        Raises:
            InputError: the data can't be found.
        """
        from nearzero.grid.networks import Networks
        from nearzero.grid.plan import plan_grid, plan_own

        place, measured = self._networks_folder(networks), (self.folder / RESPONSES).exists()
        if self.spec.network is not None:
            own = self._own_networks(place, data_dir)
            return plan_own(self.title, self.folder, own, Workers.of(executor), measured=measured)
        journal, specs = Journal.unlogged(None), {point.spec.data: point.spec for point in self.spec.points}
        loaded = {name: load_data(spec, data_dir, journal) for name, spec in specs.items()}
        data = {name: DataSource.of(known, data_dir) for name, known in loaded.items()}
        given = (self.spec, self.title, self.folder, Networks(place), data, Workers.of(executor))
        return plan_grid(*given, measured=measured)

    def _networks_folder(self, given: str | PathLike[str] | None) -> Path:
        return (Path(given) if given is not None else self.folder.parent / "networks").absolute()

    def _measure(self, folder: Path, data_dir: str | None, journal: Journal, workers: Workers) -> None:
        """Measure every run of every network of every point, and write the responses."""
        from nearzero.grid.networks import assembled

        if self.spec.network is None:
            source = self._studies(folder, data_dir, journal)
        else:
            source = own = self._own_networks(folder, data_dir)
            journal.say("checking functions, data and layers")
            own.check()
            self._record({"code": self._code(), "data": own.hashes})
        source.train(journal, workers)
        jobs = source.jobs()
        journal.say(f"measuring {number_of(len(jobs), 'network')}")
        run(
            jobs,
            journal,
            doing="measuring",
            did=f"measured {number_of(len(jobs), 'network')}",
            workers=workers,
        )
        measured = {name: list(runs) for name, runs in results(jobs).items()}
        responses = assembled(self.spec, jobs, measured)
        notices = source.notices
        for network, measurements in measured.items():
            lost = sum(measurement is None for measurement in measurements)
            notices += [f"{lost} of {len(measurements)} runs of {network} {source.lost}"] if lost else []
        responses.attrs |= {"title": self.title, "vary": self.spec.vary, "notices": json.dumps(notices)}
        responses.attrs["spec"] = _text(self.spec, self.folder)
        if self.spec.network is not None:
            responses.attrs["code"] = json.dumps(self._code())
            responses.attrs["models"] = json.dumps(own.origins)
            responses = responses.assign_coords(seed=("run", list(self.spec.points[0].spec.seeds)))
        write_recorded(self.folder, self.folder / RESPONSES, netcdf_content(responses))
        forget(jobs)

    def _studies(self, folder: Path, data_dir: str | None, journal: Journal) -> NetworkSource:
        """Return the networks of a study's recipe, with the data of all points.

        Raises:
            InputError: the data can't be found, or aren't those that the grid was begun with.
        """
        from nearzero.grid.networks import Networks, StudyNetworks

        specs = {point.spec.data: point.spec for point in self.spec.points}
        loaded = {name: load_data(spec, data_dir, journal) for name, spec in specs.items()}
        self._record({"data": {name: dict(data.hashes) for name, data in loaded.items()}})
        return StudyNetworks(self.spec, self.folder, Networks(folder), loaded, data_dir)

    def _own_networks(self, folder: Path, data_dir: str | None) -> OwnNetworks:
        """Return the user's own networks, which aren't checked yet.

        Raises:
            InputError: the code isn't that which the grid was begun with.
        """
        from nearzero.grid.own.source import OwnNetworks, code_of

        assert self.spec.network is not None
        self._check_begun({"code": self._code()})
        return OwnNetworks(self.spec, self.folder, folder, data_dir, code_of(self.spec.network))

    def _code(self) -> dict[str, str]:
        """Return the SHA-256 of each file that the user's functions are made of, by name."""
        from nearzero.grid.own.source import code_of

        assert self.spec.network is not None
        name = relative_to(self.folder.absolute())
        return {name(path): known for path, known in code_of(self.spec.network).items()}

    def _check_code(self) -> None:
        """Refuse responses that were made with other code than the user's functions have now.

        Raises:
            InputError: names the file that was changed.
        """
        if self.spec.network is not None:
            self._check_same({"code": self._attribute("code", dict)}, {"code": self._code()})

    def _record(self, used: dict[str, Any]) -> None:
        """Record this session, and what the networks are made of.

        Raises:
            InputError: it isn't what the grid was begun with.
        """
        self._check_begun(used)
        record_session(self.folder, self.provenance | used, self.spec.points[0].spec.device)

    def _check_begun(self, used: dict[str, Any]) -> None:
        self._check_same(self.provenance, used)

    def _check_same(self, begun: dict[str, Any], used: dict[str, Any]) -> None:
        """Refuse data or code that aren't those of the record.

        Raises:
            InputError: names what differs.
        """
        for key, values in used.items():
            known = begun.get(key, values)
            if known == values:
                continue
            changed = [name for name in (*values, *known) if values.get(name) != known.get(name)]
            named = f" ({Path(changed[0]).name})" if key == "code" else ""
            raise InputError(
                f"{self.folder} was begun with other {key}{named}; give the same {key}, or choose another folder"
            )


def grid_remedy(folder: Path, name: str) -> str:
    """Return what makes a file of the grid in a folder again."""
    again = f"run `nearzero grid {folder / SPEC} --out {folder}`"
    if name == SPEC:
        return "restore it"
    if name == RESPONSES:
        return f"delete it and {again}"
    return again if name.startswith(("tables/", "figures/", "state/")) else remedy(folder, name)


def _text(spec: GridSpec, folder: Path) -> str:
    """Return the complete spec as TOML, for the grid in a folder."""
    return tomli_w.dumps(kept_values(spec, folder))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by keys such as network.runs."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _is_begun(folder: Path) -> bool:
    """Return whether there is a grid in a folder that was run, and wasn't refused before it did anything."""
    return (folder / SPEC).exists() and any((folder / name).exists() for name in (RECORD, RESPONSES))


def _completed(spec: GridSpec, folder: Path) -> GridSpec:
    """Return the complete spec for the grid in a folder.

    Raises:
        InputError: the folder holds a grid with another spec; names a key in which they differ.
    """
    begun = load_kept_grid(folder / SPEC) if _is_begun(folder) else None
    spec = complete(spec, begun)
    if begun is not None and begun != spec:
        there, given = (_flat(kept_values(each, folder)) for each in (begun, spec))
        key = next(key for key in there | given if there.get(key) != given.get(key))
        raise InputError(
            f"{folder} holds a grid with {key} = {there.get(key)!r}, but {given.get(key)!r} was given; choose another "
            "folder, or delete this one"
        )
    return spec
