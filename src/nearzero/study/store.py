"""`Store`: the files in a study's folder. No other module writes a study's results.

    spec.toml            the complete spec
    provenance.json      data hashes, and versions, platform and git state of each session
    log                  lines with times
    checksums            of all other files, see `nearzero.support.checksums`
    networks/            one safetensors file per run; those of checkpoints are in checkpoints/
    results.nc           responses (root group) and training history (group "history")
    analysis.nc          groups "matched", "untrained", "parts", see `nearzero.study.analysis`
    audit.nc             the faults of the published study, measured on these networks
    tables/, figures/    written by `nearzero.report`
    page.html            everything on one page, made by `nearzero.page`
    state/               the progress of unfinished steps, sealed files, removed when the step is done

`nearzero.study.steps` computes the contents.
"""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from safetensors.numpy import load, save

from nearzero.errors import InputError
from nearzero.networks import Stack, TwoLayer
from nearzero.study.spec import VERDICT, Spec, differing_key, load_complete_spec, spec_digest, spec_text
from nearzero.support.checksums import (
    UNSEALED,
    Written,
    check_inside,
    is_recorded,
    read_recorded,
    read_sealed,
    working,
    write_recorded,
    write_sealed,
)
from nearzero.support.files import claim_folder, parsing
from nearzero.support.netcdf import load_netcdf, netcdf_content
from nearzero.support.words import number_of
from nearzero.training.train import History, Progress

__all__ = [
    "CHECKPOINTS",
    "PAGE",
    "SPEC",
    "Arrays",
    "RunState",
    "Store",
    "needed",
    "read_kept",
    "remedy",
    "write_kept",
]

Arrays = dict[str, np.ndarray[Any, Any]]
WEIGHTS = ("w1", "b1", "w2", "b2")
SPEC = "spec.toml"
PAGE = "page.html"
CHECKPOINTS = "networks/checkpoints"
# The file of each group of results, and its path in the file.
GROUPS = {
    "response": ("results.nc", "/"),
    "history": ("results.nc", "/history"),
    **{group: ("analysis.nc", f"/{group}") for group in ("matched", "untrained", "parts")},
    "audit": ("audit.nc", "/"),
}
# What makes a file again, or a file below a folder.
REMEDIES = {
    "networks": "run `nearzero train {folder}`, which trains again",
    "results.nc": "delete it, and run `nearzero train {folder}` and `nearzero sweep {folder}`",
    "analysis.nc": "delete it and run `nearzero verdict {folder}`",
    "audit.nc": "delete it and run `nearzero audit {folder}`",
    "state": "run the same command again, which begins this part anew",
    "tables": "run `nearzero report`, `verdict` or `audit {folder}`, whichever wrote it",
    "figures": "run `nearzero report` or `verdict {folder}`, whichever wrote it",
    SPEC: "restore it, unless you changed the rules of the verdict in it",
    "provenance.json": "restore it, or delete it: the next step begins a new record",
}


@dataclass(frozen=True)
class RunState:
    """The state of the training of one run of one network.

    Attributes:
        progress: the step and the history.
        stack: the weights.
        written: the files that the training of this run, and of others beside it, wrote without a record.
    """

    progress: Progress
    stack: Stack
    written: Written


@dataclass(frozen=True)
class Store:
    """The files of a study.

    Attributes:
        folder: the study's folder.
        spec: its spec, as it was when the study was opened.
    """

    folder: Path
    spec: Spec

    # --- the folder itself ---

    @classmethod
    def create(cls, folder: Path, choose: Callable[[Mapping[str, Any]], Spec]) -> Store:
        """Return the store of a new study, or of the one in the folder if it has the same spec.

        Args:
            folder: the study's folder.
            choose: takes the rules of the verdict of the study that was begun in the folder, none if there is
                none, and returns the spec.

        Raises:
            InputError: the folder holds a study with another spec, or other files, can't be written, or another
                process works in it.
        """
        proposed = cls.proposed(folder, choose)  # refuses what can't be used before a folder is made
        if (folder / SPEC).exists() and cls.open(folder).spec == proposed.spec:
            return proposed
        with working(claim_folder(folder, SPEC)):
            # read again: another process may have begun a study in the meantime
            rules: Mapping[str, Any] = {}
            if (folder / SPEC).exists():
                begun = cls.open(folder)
                rules = begun.rules
                if begun.begun:
                    begun.check_spec(choose(rules))
            store = cls(folder, choose(rules))
            store.write_spec()
        return store

    @classmethod
    def proposed(cls, folder: Path, choose: Callable[[Mapping[str, Any]], Spec]) -> Store:
        """Return the store that `create` would return; nothing is written.

        Args:
            folder, choose: as for `create`.

        Raises:
            InputError: the folder holds a study with another spec.
        """
        if not (folder / SPEC).exists():
            return cls(folder, choose({}))
        begun = cls.open(folder)
        spec = choose(begun.rules)
        if begun.begun:
            begun.check_spec(spec)
        return cls(folder, spec)

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Return the store of the study in a folder.

        Raises:
            InputError: the folder holds no study, or its spec can't be used.
        """
        if not folder.is_dir():
            raise InputError(
                f"{folder} isn't a folder; give the folder of a study, as `nearzero reproduce` makes it"
            )
        if not (folder / SPEC).is_file():
            raise InputError(f"{folder} isn't a study: it has no {SPEC}")
        check_inside(folder, folder / SPEC)
        return cls(folder, load_complete_spec(folder / SPEC))

    @property
    def begun(self) -> bool:
        """Return whether anything was computed; until then the spec may change."""
        return any((self.folder / name).exists() for name in ("networks", "state", "results.nc"))

    @property
    def rules(self) -> dict[str, Any]:
        """Return the rules of the verdict of a study that was begun; none before."""
        return self.spec.model_dump(mode="json", include=set(VERDICT)) if self.begun else {}

    def write_spec(self) -> None:
        """Write the spec."""
        self.write_file(SPEC, spec_text(self.spec).encode())

    def write_file(self, name: str, content: bytes | memoryview) -> None:
        """Write a file of the study, and its checksum."""
        write_recorded(self.folder, self.folder / name, content)

    def read_file(self, name: str) -> bytes:
        """Return the content of a file of the study.

        Raises:
            InputError: the file can't be read, or isn't the one that was written.
        """
        return read_recorded(self.folder, self.folder / name, remedy(self.folder, name))

    def check_unchanged(self) -> None:
        """Refuse a folder whose spec was changed since the study was opened.

        Raises:
            InputError: names a key in which they differ.
        """
        given, current = (
            self.spec.model_dump(mode="json"),
            Store.open(self.folder).spec.model_dump(mode="json"),
        )
        key = next((key for key in given if given[key] != current[key]), None)
        if key is not None:
            raise InputError(
                f"{self.folder / SPEC} says {key} = {current[key]!r} and had {given[key]!r} when this command began: "
                "it was changed in the meantime; run the command again, or choose another folder"
            )

    def check_spec(self, spec: Spec) -> None:
        """Refuse another spec than the one with which the study was begun.

        Raises:
            InputError: names a key in which they differ.
        """
        begun, given = self.spec.model_dump(), spec.model_dump()
        key = differing_key(begun, given)
        if key is not None:
            raise InputError(
                f"{self.folder} holds a study with {key} = {begun[key]!r}, but {given[key]!r} was given; "
                "choose another folder, or delete this one"
            )

    # --- networks ---

    def _network_file(self, activation: str, run: int, step: int | None) -> tuple[str, dict[str, Any]]:
        """Return the name of a network's file, trained (None) or at a checkpoint, and its metadata."""
        spec, name, folder = self.spec, f"{activation}-{run:02d}", "networks"
        if step is None:
            step = spec.steps
        else:
            name, folder = f"{name}-step{step:06d}", CHECKPOINTS
        metadata = {"activation": activation, "seed": spec.seeds[run], "step": step}
        return f"{folder}/{name}.safetensors", metadata

    def write_network(self, network: TwoLayer, run: int, step: int | None = None) -> None:
        """Write the network of a run, trained (None) or at a checkpoint."""
        name, metadata = self._network_file(network.activation, run, step)
        # all of it under one key: safetensors doesn't keep the order of several, so files would differ
        packed = {"network": json.dumps(metadata, sort_keys=True)}
        self.write_file(name, save({name: getattr(network, name) for name in WEIGHTS}, packed))

    def has_network(self, activation: str, run: int) -> bool:
        """Return whether the trained network of a run is there, whole and in the record of checksums."""
        name, _ = self._network_file(activation, run, None)
        try:
            self.read_network(activation, run)
        except InputError:
            return False
        return is_recorded(self.folder, self.folder / name)

    def read_network(self, activation: str, run: int, step: int | None = None) -> TwoLayer:
        """Return the network of a run, trained (None) or at a checkpoint.

        Raises:
            InputError: the file is missing or damaged, or holds another network.
        """
        name, expected = self._network_file(activation, run, step)
        path, again = self.folder / name, remedy(self.folder, name)
        if not path.exists():
            raise InputError(f"{path} isn't there; train the study first")
        content = self.read_file(name)
        with parsing(path, again):
            arrays, packed = _tensors(content)
            metadata = json.loads(packed["network"])
            w1, b1, w2, b2 = (arrays[name] for name in WEIGHTS)
            network = TwoLayer(w1, b1, w2, b2, metadata["activation"])
        found = metadata | {"units": network.units}
        if found != expected | {"units": self.spec.units}:
            raise InputError(f"{path} holds another network, {found}, than {expected}; {again}")
        return network

    # --- the state of an unfinished step ---

    def clear_state(self) -> None:
        """Remove the state of unfinished steps."""
        shutil.rmtree(self.folder / "state", ignore_errors=True)

    def save_progress(
        self, activation: str, runs: Sequence[int], progress: Progress, stack: Stack, written: Written
    ) -> None:
        """Write the state of the training of some runs of one network, which are at the same step.

        Args:
            activation: of the network.
            runs: their numbers, ascending.
            progress, stack: their histories and weights, in this order.
            written: the files that their training wrote and that aren't in the record yet.
        """
        arrays = {name: getattr(stack, name) for name in WEIGHTS}
        arrays |= {field.name: getattr(progress.history, field.name) for field in fields(History)}
        arrays |= {"step": np.array([progress.step]), "runs": np.array(runs)}
        arrays = {key: np.asarray(value, order="C") for key, value in arrays.items()}
        files = {name: checksum for (_, name), checksum in written.items()}
        metadata = {"spec": spec_digest(self.spec), "files": json.dumps(files, sort_keys=True)}
        which = "" if len(runs) == self.spec.runs else f"-{runs[0]:02d}-{runs[-1]:02d}"
        path = self.folder / "state" / f"training-{activation}{which}.safetensors"
        write_sealed(path, save(arrays, metadata | UNSEALED))

    def has_progress(self, activation: str) -> bool:
        """Return whether there is a file of the state of the training of one network, whatever it holds."""
        return any(True for _ in self._progress_files(activation, range(self.spec.runs)))

    def load_progress(self, activation: str, runs: Iterable[int]) -> dict[int, RunState]:
        """Return the states of the training of runs of one network; those that must begin anew aren't in it.

        That is the case if there is no such state, or if it is damaged, belongs to another spec, or has
        measurements at other steps.
        """
        found: dict[int, RunState] = {}
        wanted = set(runs)
        for path in self._progress_files(activation, wanted):
            for run, state in self._read_progress(path, activation).items():
                if run in wanted and (run not in found or state.progress.step > found[run].progress.step):
                    found[run] = state
        return found

    def _progress_files(self, activation: str, runs: Iterable[int]) -> Iterator[Path]:
        """Yield the files of the states of the training of one network that may hold some of these runs."""
        name = re.compile(rf"training-{re.escape(activation)}(?:-(\d+)-(\d+))?\.safetensors")
        for path in sorted((self.folder / "state").glob(f"training-{activation}*.safetensors")):
            match = name.fullmatch(path.name)
            if match and (match[1] is None or any(int(match[1]) <= run <= int(match[2]) for run in runs)):
                yield path

    def _read_progress(self, path: Path, activation: str) -> dict[int, RunState]:
        """Return the states in a file; none if it is of no use."""
        try:
            content = read_sealed(path, "training begins anew")
            with parsing(path, "training begins anew"):
                arrays, metadata = _tensors(content)
                if metadata.get("spec") != spec_digest(self.spec):
                    return {}
                if arrays["loss"].shape[1] != len(self.spec.recipe.schedule):
                    return {}
                history = History(**{field.name: arrays[field.name] for field in fields(History)})
                w1, b1, w2, b2 = (arrays[name] for name in WEIGHTS)
                stack, step = Stack(w1, b1, w2, b2, (activation,) * len(w1)), int(arrays["step"][0])
                files = json.loads(metadata["files"])
                written = {(str(self.folder), name): checksum for name, checksum in files.items()}
                rows = [slice(row, row + 1) for row in range(len(stack))]
                return {
                    int(run): RunState(Progress(step, history.part(row)), stack.part(row), written)
                    for run, row in zip(arrays["runs"], rows, strict=True)
                }
        except InputError:
            return {}

    # --- results ---

    def write(self, groups: Mapping[str, xr.Dataset]) -> None:
        """Write all groups of one file, see `GROUPS`; each group also holds the spec to which it belongs."""
        (name,) = {GROUPS[group][0] for group in groups}
        attributes = {"spec": spec_text(self.spec)}
        nodes = {GROUPS[group][1]: results.assign_attrs(attributes) for group, results in groups.items()}
        compression = {
            node: {
                key: {"zlib": True, "shuffle": True} for key in results.data_vars if results[key].ndim == 3
            }
            for node, results in nodes.items()
            if node == "/history"
        }
        tree = xr.DataTree.from_dict(nodes)
        content = netcdf_content(tree, encoding=compression, write_inherited_coords=True)
        self.write_file(name, content)

    def read(self, group: str) -> xr.Dataset | None:
        """Return one of `GROUPS`; None if it isn't there yet.

        Raises:
            InputError: the file is damaged, or belongs to another spec.
        """
        name, node = GROUPS[group]
        path = self.folder / name
        if not path.exists():
            return None
        tree = _parsed(self.read_file(name), path, remedy(self.folder, name))
        if node != "/" and group not in tree.children:
            return None
        loaded = tree[node].to_dataset().copy(deep=True)
        if not loaded.data_vars:
            return None
        self._check_results(path, loaded)
        return loaded

    def reading(self) -> AbstractContextManager[None]:
        """Turn any error in the block, in which only results of the study are read, into an InputError of one line."""
        return parsing(
            f"a result of {self.folder}",
            f"`nearzero verify {self.folder}` names files that were changed; if none was, it is a bug in nearzero",
        )

    def _check_results(self, path: Path, results: xr.Dataset) -> None:
        """Refuse results that belong to another spec than the study's, or are of other networks or runs.

        Raises:
            InputError: names a key in which the specs differ, or the runs.
        """
        with parsing(f"the spec in {path}", remedy(self.folder, path.name)):
            made_with = tomllib.loads(results.attrs["spec"])
        current = self.spec.model_dump(mode="json")
        key = differing_key(made_with, current)
        if key is not None:
            raise InputError(
                f"{path} was made with {key} = {made_with.get(key)!r}, but {SPEC} says {current[key]!r}; "
                f"restore {SPEC}, or begin another study"
            )
        networks, runs = results.network.values.tolist(), results.sizes["run"]
        if networks != [*self.spec.activations] or runs != self.spec.runs:
            raise InputError(
                f"{path} has {number_of(runs, 'run')} of {', '.join(map(str, networks))[:80]}, and {SPEC} says "
                f"{number_of(self.spec.runs, 'run')} of {', '.join(self.spec.activations)}; "
                f"{remedy(self.folder, path.name)}"
            )


def remedy(folder: Path, name: str) -> str:
    """Return what makes a file of the study in a folder again."""
    return REMEDIES.get(name.split("/")[0], "delete it if it isn't yours").format(folder=folder)


@lru_cache(maxsize=len({name for name, _ in GROUPS.values()}))
def _parsed(content: bytes, path: Path, again: str) -> xr.DataTree:
    """Return the groups of a file, which are parsed once for all of them; see `load_netcdf`."""
    return load_netcdf(content, path, again)


def needed(results: xr.Dataset | None, refusal: str) -> xr.Dataset:
    """Return the results of a study.

    Raises:
        InputError: they are None; `refusal` is the message.
    """
    if results is None:
        raise InputError(refusal)
    return results


def write_kept(path: Path, dataset: xr.Dataset) -> None:
    """Write a Dataset for `read_kept`, as sealed safetensors: some twenty times as fast as netCDF."""
    contents = dataset.to_dict(data=False)
    variables, arrays = contents["coords"] | contents["data_vars"], {}
    for name, variable in dataset.variables.items():
        if variable.dtype.kind in "biuf":
            arrays[str(name)] = np.asarray(variable.values, order="C")
        else:
            variables[name]["data"] = variable.values.tolist()
    write_sealed(path, save(arrays, {"dataset": json.dumps(contents)} | UNSEALED))


def read_kept(path: Path) -> xr.Dataset | None:
    """Return the Dataset that `write_kept` wrote; None if the file is missing or damaged."""
    try:
        content = read_sealed(path, "it is made anew")
        with parsing(path, "it is made anew"):
            arrays, metadata = _tensors(content)
            contents = json.loads(metadata["dataset"])
            variables = contents["coords"] | contents["data_vars"]
            for name, values in arrays.items():
                variables[name]["data"] = values
            return xr.Dataset.from_dict(contents)
    except InputError:
        return None


def _tensors(content: bytes) -> tuple[Arrays, dict[str, str]]:
    """Return the arrays and the metadata of a safetensors file; damage raises errors of all kinds."""
    arrays = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return arrays, header.get("__metadata__", {})
