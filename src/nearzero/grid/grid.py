"""A grid as its user holds it, and its folder.

    grid.toml         the spec, complete
    provenance.json   versions, platform, data hashes and git state, for each sitting
    log               what happened, with times
    responses.nc      what was measured, for all networks
    tables/, figures/
    state/            what an interrupted command goes on from, see `nearzero.study.jobs`; gone when it isn't needed

Networks lie elsewhere (`nearzero.grid.networks`), so that grids can share them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from nearzero.analysis.verdict import Rules, Verdict, judge
from nearzero.datasets import Dataset
from nearzero.errors import InputError
from nearzero.evaluators.base import EARLIER_HALVES
from nearzero.grid.spec import CHECKPOINT, GridSpec, load_grid
from nearzero.study.data import DataSource, load_data
from nearzero.study.jobs import forget, results, run
from nearzero.study.journal import Journal
from nearzero.study.provenance import read_record, record_sitting
from nearzero.study.spec import spec_text
from nearzero.support.files import begin_folder, locked, write_bytes

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Grid"]

SPEC, RESPONSES = "grid.toml", "responses.nc"


class Grid:
    """A grid on disk.

    Attributes:
        folder: where it lies.
        spec: what it's made from.
    """

    def __init__(self, folder: Path, spec: GridSpec) -> None:
        self.folder, self.spec = folder, spec

    def __repr__(self) -> str:
        return f"Grid({str(self.folder)!r}: {self.title})"

    @classmethod
    def open(cls, folder: str | PathLike[str]) -> Grid:
        """Open the grid in a folder.

        Raises:
            InputError: there is none.
        """
        path = Path(folder) / SPEC
        if not path.is_file():
            raise InputError(
                f"{folder} isn't a grid: it has no {SPEC}; `nearzero grid SPEC --out {folder}` makes one"
            )
        return cls(Path(folder), load_grid(path))

    @classmethod
    def create(cls, folder: str | PathLike[str], spec: GridSpec | str | PathLike[str]) -> Grid:
        """Begin a grid, or take up the one of the same spec that is there.

        Raises:
            InputError: a spec that can't be used, or a folder that holds something else or can't be written.
        """
        folder = Path(folder)
        spec = spec if isinstance(spec, GridSpec) else load_grid(Path(spec))
        if (folder / SPEC).exists():
            there = load_grid(folder / SPEC)
            if there != spec:
                key = next(key for key in GridSpec.model_fields if getattr(there, key) != getattr(spec, key))
                raise InputError(
                    f"{folder} holds a grid with another {key}, {getattr(there, key)!r}, than {getattr(spec, key)!r}; "
                    "choose another folder, or delete this one"
                )
        else:
            begin_folder(folder, SPEC, spec_text(spec))
        return cls(folder, spec)

    @property
    def title(self) -> str:
        """A line that says what was studied."""
        one = self.spec.points[0].spec
        batch = "the whole training set" if one.batch_size == "all" else f"{one.batch_size}"
        about = f"{one.runs} runs each, {one.steps:,} steps, batches of {batch}"
        return f"{self.spec.title}; {about}; {self.spec.split} data"

    @cached_property
    def responses(self) -> xr.Dataset:
        """Responses at matched displacement, see `nearzero.analysis.matched`, on (network, run, family, side, target).

        Raises:
            InputError: they haven't been measured yet.
        """
        path = self.folder / RESPONSES
        if not path.is_file():
            raise InputError(
                f"{self.folder} hasn't been measured yet; run `nearzero grid {self.folder / SPEC}`"
            )
        try:
            found = xr.load_dataset(path, engine="h5netcdf")
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path} can't be read ({error}); delete it and run again") from error
        found.attrs.setdefault("halves", EARLIER_HALVES)
        return found

    @property
    def notices(self) -> tuple[str, ...]:
        """What a reader must know before the numbers: substituted data, runs that are missing."""
        return tuple(json.loads(self.responses.attrs["notices"]))

    @property
    def provenance(self) -> dict[str, Any]:
        """Versions, platform, data hashes and git state, for each sitting; empty at the start.

        Raises:
            InputError: the record isn't one.
        """
        return read_record(self.folder)

    def verdict(self, rules: Rules | None = None) -> Verdict:
        """Whether distance or intensity costs more, network by network; Holm's adjustment is over all of the grid."""
        return judge(self.responses, rules or self.spec.points[0].spec.rules)

    def read(self) -> dict[str, Verdict]:
        """What the verdict would be with each family that's to be read in the place of distance."""
        rules = self.spec.points[0].spec.rules
        return {name: self.verdict(replace(rules, distance=(name,))) for name in self.spec.read}

    def run(
        self,
        *,
        networks: str | PathLike[str] | None = None,
        data_dir: str | None = None,
        console: Console | None = None,
    ) -> Grid:
        """Train and measure what isn't there yet, and write tables and figure.

        Args:
            networks: where the networks lie; "networks" beside the grid's folder if None.
            data_dir: a folder with data files.
            console: where to print.
        """
        from nearzero.report.write import write_grid

        with locked(self.folder):
            if not (self.folder / RESPONSES).exists():
                place = Path(networks) if networks is not None else self.folder.parent / "networks"
                with Journal.opened(console, self.folder / "log") as journal:
                    self._measure(place, data_dir, journal)
            self.__dict__.pop("responses", None)
            write_grid(self, self.folder)
        return self

    def _measure(self, networks: Path, data_dir: str | None, journal: Journal) -> None:
        """Every run of every network of every point; ends with the responses on disk."""
        from nearzero.grid.networks import GridJob, Networks, assembled, grid_jobs

        shelf, loaded = Networks(networks), self._data(data_dir, journal)
        jobs: list[GridJob] = []
        for point in self.spec.points:
            data = DataSource.of(loaded[point.spec.data], data_dir)
            shelf.train(point, data, journal)
            for activation in point.spec.activations:
                ours = grid_jobs(self.spec, self.folder, shelf, point, activation, data)
                what = ours[0].network
                run(ours, journal, doing=what, did=f"measured {what}")
                jobs += ours
        measured = results(jobs)
        found = assembled(self.spec, jobs, measured)
        notices = [data.notice for data in loaded.values() if data.notice]
        why = "diverged or never came so far" if self.spec.vary == CHECKPOINT else "diverged"
        for what, runs in measured.items():
            lost = sum(each is None for each in runs)
            notices += [f"{lost} of {len(runs)} runs of {what} {why}"] if lost else []
        found.attrs |= {"title": self.title, "vary": self.spec.vary, "notices": json.dumps(notices)}
        write_bytes(self.folder / RESPONSES, bytes(found.to_netcdf(engine="h5netcdf") or b""))
        forget(jobs)

    def _data(self, data_dir: str | None, journal: Journal) -> dict[str, Dataset]:
        """The data of all points, by name; their hashes are noted."""
        specs = {point.spec.data: point.spec for point in self.spec.points}
        loaded = {name: load_data(spec, data_dir, journal) for name, spec in specs.items()}
        record = self.provenance
        hashes = {name: dict(data.hashes) for name, data in loaded.items()}
        if record.get("data", hashes) != hashes:
            raise InputError(
                f"{self.folder} was begun with other data; give the same, or choose another folder"
            )
        record_sitting(self.folder, record | {"data": hashes}, self.spec.points[0].spec.device)
        return loaded
