"""A study's folder: what lies where, read and written whole. The only writer of results.

    spec.toml            the complete spec
    provenance.json      versions, platform, data hashes, git state, for each sitting
    log                  what happened, with times
    networks/            one safetensors file a run; checkpoints/ those of its checkpoints
    results.nc           responses (root group) and training history (group "history")
    tables/, figures/    written by `nearzero.report`
    state/               what an interrupted command goes on from; gone when it isn't needed

The steps that produce these things are in `nearzero.study.steps`.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nearzero.errors import InputError
from nearzero.files import explained, make_folder, write_bytes, write_text
from nearzero.networks import Stack, TwoLayer
from nearzero.study.spec import Spec, load_spec, spec_text
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
            store.check_spec(spec)
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
        return load_spec(self.folder / SPEC)

    def check_spec(self, spec: Spec) -> None:
        """Refuse to go on with another spec than the one the study was begun with."""
        there = self.spec
        for key in Spec.model_fields:
            old, new = getattr(there, key), getattr(spec, key)
            if old != new:
                raise InputError(
                    f"{self.folder} holds a study with {key} = {old!r}, but {new!r} is asked for; "
                    "choose another folder, or delete this one"
                )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from working on the study; a process that's killed lets go.

        Raises:
            InputError: another process is at work.
        """
        lock = FileLock(self.folder / ".lock", timeout=0)
        with explained(self.folder):
            try:
                lock.acquire()
            except Timeout:
                raise InputError(
                    f"another process is working on {self.folder}; wait for it, or stop it"
                ) from None
        try:
            yield
        finally:
            lock.release()

    def note(self, record: dict[str, Any]) -> None:
        """Replace what is known of where the study comes from."""
        write_text(self.folder / "provenance.json", json.dumps(record, indent=2, sort_keys=True) + "\n")

    @property
    def provenance(self) -> dict[str, Any]:
        """What is known of where the study comes from; empty at the start."""
        path = self.folder / "provenance.json"
        if not path.exists():
            return {}
        try:
            return dict(json.loads(_read(path)))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{path} isn't a record of nearzero: {error}; delete the folder and begin again"
            ) from error

    # --- networks ---

    def network_path(self, activation: str, run: int) -> Path:
        """Where the trained network of a run lies."""
        return self.folder / "networks" / f"{activation}-{run:02d}.safetensors"

    def checkpoint_path(self, activation: str, run: int, step: int) -> Path:
        """Where a checkpoint of a run lies."""
        return self.folder / "networks" / "checkpoints" / f"{activation}-{run:02d}-step{step:06d}.safetensors"

    def write_network(self, path: Path, network: TwoLayer, **about: object) -> None:
        """Write one network; `about` becomes metadata."""
        make_folder(path.parent)
        metadata = {"activation": network.activation} | {key: str(value) for key, value in about.items()}
        write_bytes(path, save({name: getattr(network, name) for name in WEIGHTS}, metadata))

    def read_network(self, path: Path) -> TwoLayer:
        """Read one network.

        Raises:
            InputError: it isn't there or isn't such a file.
        """
        arrays, metadata = _read_tensors(path)
        if not set(WEIGHTS) <= set(arrays) or "activation" not in metadata:
            raise InputError(
                f"{path} isn't a network of a study: it lacks w1, b1, w2, b2 or the activation's name"
            )
        w1, b1, w2, b2 = (arrays[name] for name in WEIGHTS)
        return TwoLayer(w1, b1, w2, b2, metadata["activation"])

    # --- what an interrupted command goes on from ---

    def _state(self, name: str) -> Path:
        return self.folder / "state" / f"{name}.safetensors"

    def write_state(self, name: str, arrays: Arrays) -> None:
        """Keep arrays under a name until `clear_state`."""
        make_folder(self.folder / "state")
        write_bytes(
            self._state(name), save({key: np.asarray(value, order="C") for key, value in arrays.items()})
        )

    def read_state(self, name: str) -> Arrays | None:
        """Arrays kept under a name; None if there are none, or if they are damaged and the work is to do again."""
        try:
            return _read_tensors(self._state(name))[0]
        except InputError:
            return None

    def clear_state(self) -> None:
        """Forget what only an interrupted command needs."""
        shutil.rmtree(self.folder / "state", ignore_errors=True)

    def save_progress(self, activation: str, progress: Progress, stack: Stack) -> None:
        """Keep where the training of one network's runs stands."""
        arrays = {name: getattr(stack, name) for name in WEIGHTS}
        arrays |= {each.name: getattr(progress.history, each.name) for each in fields(History)}
        self.write_state(f"training-{activation}", arrays | {"step": np.array([progress.step])})

    def load_progress(self, activation: str) -> tuple[Progress, Stack] | None:
        """Where the training of one network's runs stands; None at the start."""
        arrays = self.read_state(f"training-{activation}")
        if arrays is None or not {*WEIGHTS, "step"} <= set(arrays):
            return None
        history = History(**{each.name: arrays[each.name] for each in fields(History)})
        w1, b1, w2, b2 = (arrays[name] for name in WEIGHTS)
        return Progress(int(arrays["step"][0]), history), Stack(w1, b1, w2, b2, activation)

    # --- results ---

    @property
    def results_path(self) -> Path:
        """Where the results lie."""
        return self.folder / "results.nc"

    def write_results(self, history: xr.Dataset, response: xr.Dataset | None = None) -> None:
        """Write the training history, and the responses if there are any."""
        tree = xr.DataTree.from_dict(
            {"/": response, "/history": history} if response is not None else {"/history": history}
        )
        packed = {
            name: {"zlib": True, "shuffle": True} for name in history.data_vars if history[name].ndim == 3
        }
        content = tree.to_netcdf(engine="h5netcdf", encoding={"/history": packed})
        write_bytes(self.results_path, bytes(content))

    def read_results(self, group: str) -> xr.Dataset | None:
        """The "response" or the "history"; None if it isn't there yet.

        Raises:
            InputError: the file is damaged.
        """
        if not self.results_path.exists():
            return None
        try:
            content = io.BytesIO(_read(self.results_path))
            with xr.open_datatree(content, engine="h5netcdf") as tree:
                found = tree if group == "response" else tree["history"]
                loaded = found.to_dataset().load()
        except (ValueError, OSError, KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{self.results_path} can't be read ({reason}); delete it and run the same command again"
            ) from error
        return loaded if loaded.data_vars else None


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
        raise InputError(f"{path} is damaged ({error}); delete it and run the same command again") from error
