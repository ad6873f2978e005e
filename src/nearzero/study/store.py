"""A study's folder: what lies where, read and written whole. The only writer of results.

    spec.toml            the complete spec
    provenance.json      versions, platform, data hashes, git state, for each sitting
    log                  what happened, with times
    networks/            one safetensors file a run; checkpoints/ those of its checkpoints
    results.nc           responses (root group) and training history (group "history")
    analysis.nc          groups "matched", "untrained", "parts", see `nearzero.study.analysis`
    audit.nc             what the faults of the published study come to on these networks
    tables/, figures/    written by `nearzero.report`
    state/               what an interrupted command goes on from; gone when it isn't needed

The steps that produce these things are in `nearzero.study.steps`.
"""

from __future__ import annotations

import io
import json
import shutil
import tomllib
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nearzero.errors import InputError
from nearzero.files import locked, make_folder, write_bytes, write_text
from nearzero.networks import Stack, TwoLayer
from nearzero.study.provenance import read_record
from nearzero.study.spec import Spec, differing_key, load_complete_spec, spec_digest, spec_text
from nearzero.training.train import History, Progress

__all__ = ["Arrays", "Store"]

Arrays = dict[str, np.ndarray[Any, Any]]
WEIGHTS = ("w1", "b1", "w2", "b2")
SPEC = "spec.toml"


@dataclass(frozen=True)
class Store:
    """The files of the study in `folder`."""

    folder: Path

    # --- the folder itself ---

    @classmethod
    def create(cls, folder: Path, spec: Spec) -> Store:
        """Begin a study, or take up the one that's there if it has the same spec.

        Raises:
            InputError: the folder holds a study with another spec, or other files, or can't be written.
        """
        store = cls(folder)
        if (folder / SPEC).exists():
            if store.begun:
                store.check_spec(spec)
            if store.begun and store.spec == spec:
                return store
            write_text(folder / SPEC, spec_text(spec))
            return store
        if folder.is_dir() and any(
            each.name != ".lock" and not each.name.endswith(".part") for each in folder.iterdir()
        ):
            raise InputError(f"{folder} holds other files and no {SPEC}; choose an empty or a new folder")
        make_folder(folder)
        write_text(folder / SPEC, spec_text(spec))
        return store

    @classmethod
    def open(cls, folder: Path) -> Store:
        """The store of a study that exists.

        Raises:
            InputError: there's no study in that folder.
        """
        if not folder.is_dir():
            raise InputError(
                f"{folder} isn't a folder; give the folder of a study, as `nearzero reproduce` makes it"
            )
        if not (folder / SPEC).is_file():
            raise InputError(f"{folder} isn't a study: it has no {SPEC}")
        return cls(folder)

    @property
    def spec(self) -> Spec:
        """The spec, resolved."""
        return load_complete_spec(self.folder / SPEC)

    @property
    def begun(self) -> bool:
        """Whether anything was computed; until then the spec may change."""
        return any((self.folder / each).exists() for each in ("networks", "state", "results.nc"))

    def check_spec(self, spec: Spec) -> None:
        """Refuse to go on with another spec than the one the study was begun with."""
        there, asked = self.spec.model_dump(), spec.model_dump()
        key = differing_key(there, asked)
        if key is not None:
            raise InputError(
                f"{self.folder} holds a study with {key} = {there[key]!r}, but {asked[key]!r} is asked for; "
                "choose another folder, or delete this one"
            )

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes from working on the study; a process that's killed lets go.

        Raises:
            InputError: another process is at work.
        """
        return locked(self.folder)

    def note(self, record: dict[str, Any]) -> None:
        """Replace what is known of where the study comes from."""
        write_text(self.folder / "provenance.json", json.dumps(record, indent=2, sort_keys=True) + "\n")

    @property
    def provenance(self) -> dict[str, Any]:
        """What is known of where the study comes from; empty at the start."""
        return read_record(self.folder / "provenance.json")

    # --- networks ---

    def network_path(self, activation: str, run: int) -> Path:
        """Where the trained network of a run lies."""
        return self.folder / "networks" / f"{activation}-{run:02d}.safetensors"

    def checkpoint_path(self, activation: str, run: int, step: int) -> Path:
        """Where a checkpoint of a run lies."""
        return self.folder / "networks" / "checkpoints" / f"{activation}-{run:02d}-step{step:06d}.safetensors"

    def _network_file(self, activation: str, run: int, step: int | None) -> tuple[Path, dict[str, Any]]:
        """Where a network lies, trained or at a checkpoint, and what its metadata must say."""
        spec = self.spec
        last = spec.steps if step is None else step
        path = (
            self.network_path(activation, run)
            if step is None
            else self.checkpoint_path(activation, run, step)
        )
        return path, {"activation": activation, "seed": spec.seeds[run], "step": last}

    def write_network(self, network: TwoLayer, run: int, step: int | None = None) -> None:
        """Write the network of a run, trained (None) or at a checkpoint."""
        path, about = self._network_file(network.activation, run, step)
        make_folder(path.parent)
        # one key of metadata, since safetensors keeps several in no order
        metadata = {"network": json.dumps(about, sort_keys=True)}
        write_bytes(path, save({name: getattr(network, name) for name in WEIGHTS}, metadata))

    def read_network(self, activation: str, run: int, step: int | None = None) -> TwoLayer:
        """Read the network of a run, trained (None) or at a checkpoint.

        Raises:
            InputError: it isn't there, isn't such a file, or is another network.
        """
        path, about = self._network_file(activation, run, step)
        arrays, metadata = _read_tensors(path)
        try:
            found = json.loads(metadata["network"])
            w1, b1, w2, b2 = (arrays[name] for name in WEIGHTS)
            network = TwoLayer(w1, b1, w2, b2, found["activation"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} isn't a network of a study ({error}); delete it and train again"
            ) from error
        if found != about:
            raise InputError(
                f"{path} holds another network, {found}, than {about}; delete it and train again"
            )
        return network

    # --- what an interrupted command goes on from ---

    def _state(self, name: str) -> Path:
        return self.folder / "state" / f"{name}.safetensors"

    def write_state(self, name: str, arrays: Arrays) -> None:
        """Keep arrays under a name until `clear_state`, with the spec that they belong to."""
        make_folder(self.folder / "state")
        kept = {key: np.asarray(value, order="C") for key, value in arrays.items()}
        write_bytes(self._state(name), save(kept, {"spec": spec_digest(self.spec)}))

    def read_state(self, name: str) -> Arrays | None:
        """Arrays kept under a name; None if there are none, if they are damaged, or are of another spec."""
        try:
            arrays, metadata = _read_tensors(self._state(name))
        except InputError:
            return None
        return arrays if metadata.get("spec") == spec_digest(self.spec) else None

    def clear_state(self, beginning: str = "") -> None:
        """Forget what only an interrupted command needs: all of it, or what is kept under names with this beginning."""
        folder = self.folder / "state"
        if not beginning:
            shutil.rmtree(folder, ignore_errors=True)
            return
        for path in folder.glob(f"{beginning}*"):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # another interrupted command still needs it
            folder.rmdir()

    def save_progress(self, activation: str, progress: Progress, stack: Stack) -> None:
        """Keep where the training of one network's runs stands."""
        arrays = {name: getattr(stack, name) for name in WEIGHTS}
        arrays |= {each.name: getattr(progress.history, each.name) for each in fields(History)}
        self.write_state(f"training-{activation}", arrays | {"step": np.array([progress.step])})

    def load_progress(self, activation: str) -> tuple[Progress, Stack] | None:
        """Where the training of one network's runs stands; None at the start, or if it was measured at other steps."""
        arrays = self.read_state(f"training-{activation}")
        if arrays is None or not {*WEIGHTS, "step"} <= set(arrays):
            return None
        if arrays["loss"].shape[1] != len(self.spec.recipe.schedule):
            return None
        history = History(**{each.name: arrays[each.name] for each in fields(History)})
        w1, b1, w2, b2 = (arrays[name] for name in WEIGHTS)
        return Progress(int(arrays["step"][0]), history), Stack(w1, b1, w2, b2, (activation,) * len(w1))

    # --- results ---

    @property
    def results_path(self) -> Path:
        """Where the results lie."""
        return self.folder / "results.nc"

    def write_results(self, history: xr.Dataset, response: xr.Dataset | None = None) -> None:
        """Write the training history, and the responses if there are any; both carry the spec they belong to."""
        for each in (history, response):
            if each is not None:
                each.attrs["spec"] = spec_text(self.spec)
        tree = xr.DataTree.from_dict(
            {"/": response, "/history": history} if response is not None else {"/history": history}
        )
        packed = {
            name: {"zlib": True, "shuffle": True} for name in history.data_vars if history[name].ndim == 3
        }
        content = tree.to_netcdf(
            engine="h5netcdf", encoding={"/history": packed}, write_inherited_coords=True
        )
        write_bytes(self.results_path, bytes(content))

    def read_results(self, group: str) -> xr.Dataset | None:
        """The "response" or the "history"; None if it isn't there yet.

        Raises:
            InputError: the file is damaged, or of another spec.
        """
        return self._read_group(self.results_path, "/" if group == "response" else group)

    @property
    def analysis_path(self) -> Path:
        """Where the analysis lies."""
        return self.folder / "analysis.nc"

    def write_analysis(self, groups: Mapping[str, xr.Dataset]) -> None:
        """Write what an analysis found, group by group."""
        for each in groups.values():
            each.attrs["spec"] = spec_text(self.spec)
        tree = xr.DataTree.from_dict({f"/{name}": each for name, each in groups.items()})
        write_bytes(self.analysis_path, bytes(tree.to_netcdf(engine="h5netcdf", write_inherited_coords=True)))

    def read_analysis(self, group: str) -> xr.Dataset | None:
        """A group of the analysis; None if it isn't there yet.

        Raises:
            InputError: the file is damaged, or of another spec.
        """
        return self._read_group(self.analysis_path, group)

    @property
    def audit_path(self) -> Path:
        """Where the audit's measurements lie."""
        return self.folder / "audit.nc"

    def write_audit(self, measured: xr.Dataset) -> None:
        """Write what an audit measured, with the spec it belongs to."""
        measured.attrs["spec"] = spec_text(self.spec)
        tree = xr.DataTree.from_dict({"/": measured})
        write_bytes(self.audit_path, bytes(tree.to_netcdf(engine="h5netcdf")))

    def read_audit(self) -> xr.Dataset | None:
        """What an audit measured; None if it isn't there yet.

        Raises:
            InputError: the file is damaged, or of another spec.
        """
        return self._read_group(self.audit_path, "/")

    def _read_group(self, path: Path, group: str) -> xr.Dataset | None:
        if not path.exists():
            return None
        try:
            with xr.open_datatree(io.BytesIO(_read(path)), engine="h5netcdf") as tree:
                if group != "/" and group not in tree.children:
                    return None
                loaded = (tree if group == "/" else tree[group]).to_dataset().load()
        except (ValueError, OSError, KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{path} can't be read ({reason}); delete it and run the same command again"
            ) from error
        if not loaded.data_vars:
            return None
        self._check_results(path, loaded)
        return loaded

    def _check_results(self, path: Path, results: xr.Dataset) -> None:
        """Refuse results that belong to another spec than the one that lies beside them."""
        try:
            made_with = tomllib.loads(results.attrs["spec"])
        except (KeyError, TypeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path} doesn't say which spec it belongs to; delete it") from error
        here = self.spec.model_dump(mode="json")
        key = differing_key(made_with, here)
        if key is not None:
            raise InputError(
                f"{path} was made with {key} = {made_with.get(key)!r}, but {SPEC} says {here[key]!r}; "
                f"restore {SPEC}, or begin another study"
            )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error


def _read_tensors(path: Path) -> tuple[Arrays, dict[str, str]]:
    if not path.is_file():
        raise InputError(f"{path} isn't there; train the study first")
    try:
        with safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and train again") from error
