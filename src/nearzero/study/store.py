"""A study's folder: what lies where, read and written whole. The only writer of results.

    spec.toml            the complete spec
    provenance.json      versions, platform, data hashes, git state, for each sitting
    log                  what happened, with times
    networks/            one safetensors file a run; checkpoints/ those of its checkpoints
    results.nc           responses (root group) and training history (group "history")
    analysis.nc          groups "matched", "untrained", "parts", see `nearzero.study.analysis`
    audit.nc             what the faults of the published study come to on these networks
    tables/, figures/    written by `nearzero.report`
    state/               what an interrupted command goes on from, see `nearzero.study.jobs`; gone when it isn't needed

The steps that produce these things are in `nearzero.study.steps`.
"""

from __future__ import annotations

import io
import json
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nearzero.errors import InputError
from nearzero.networks import Stack, TwoLayer
from nearzero.study.spec import Spec, differing_key, load_complete_spec, spec_digest, spec_text
from nearzero.support.files import begin_folder, make_folder, read_bytes, write_bytes
from nearzero.training.train import History, Progress

__all__ = ["Arrays", "Store", "needed", "read_kept", "write_kept"]

Arrays = dict[str, np.ndarray[Any, Any]]
WEIGHTS = ("w1", "b1", "w2", "b2")
SPEC = "spec.toml"
# In which file a group of results lies, and where in it.
GROUPS = {
    "response": ("results.nc", "/"),
    "history": ("results.nc", "/history"),
    **{group: ("analysis.nc", f"/{group}") for group in ("matched", "untrained", "parts")},
    "audit": ("audit.nc", "/"),
}


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
        if (folder / SPEC).exists() and store.begun:
            store.check_spec(spec)
            if store.spec == spec:
                return store
        begin_folder(folder, SPEC, spec_text(spec))
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

    # --- networks ---

    def _network_file(self, activation: str, run: int, step: int | None) -> tuple[Path, dict[str, Any]]:
        """Where a network lies, trained or at a checkpoint, and what its metadata must say."""
        spec, name, folder = self.spec, f"{activation}-{run:02d}", self.folder / "networks"
        if step is None:
            step = spec.steps
        else:
            name, folder = f"{name}-step{step:06d}", folder / "checkpoints"
        about = {"activation": activation, "seed": spec.seeds[run], "step": step}
        return folder / f"{name}.safetensors", about

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

    def clear_state(self) -> None:
        """Forget what only an interrupted command needs."""
        shutil.rmtree(self.folder / "state", ignore_errors=True)

    def _progress_path(self, activation: str) -> Path:
        return self.folder / "state" / f"training-{activation}.safetensors"

    def save_progress(self, activation: str, progress: Progress, stack: Stack) -> None:
        """Keep where the training of one network's runs stands."""
        arrays = {name: getattr(stack, name) for name in WEIGHTS}
        arrays |= {each.name: getattr(progress.history, each.name) for each in fields(History)}
        arrays["step"] = np.array([progress.step])
        make_folder(self.folder / "state")
        kept = {key: np.asarray(value, order="C") for key, value in arrays.items()}
        write_bytes(self._progress_path(activation), save(kept, {"spec": spec_digest(self.spec)}))

    def load_progress(self, activation: str) -> tuple[Progress, Stack] | None:
        """Where the training of one network's runs stands; None at the start, or if it was measured at other steps.

        What is damaged, or belongs to another spec, is no start either.
        """
        try:
            arrays, metadata = _read_tensors(self._progress_path(activation))
        except InputError:
            return None
        if metadata.get("spec") != spec_digest(self.spec) or not {*WEIGHTS, "step"} <= set(arrays):
            return None
        if arrays["loss"].shape[1] != len(self.spec.recipe.schedule):
            return None
        history = History(**{each.name: arrays[each.name] for each in fields(History)})
        w1, b1, w2, b2 = (arrays[name] for name in WEIGHTS)
        return Progress(int(arrays["step"][0]), history), Stack(w1, b1, w2, b2, (activation,) * len(w1))

    # --- results ---

    def write(self, groups: Mapping[str, xr.Dataset]) -> None:
        """Write the groups of one file, see `GROUPS`; each carries the spec it belongs to."""
        (name,) = {GROUPS[group][0] for group in groups}
        here = {"spec": spec_text(self.spec)}
        nodes = {GROUPS[group][1]: found.assign_attrs(here) for group, found in groups.items()}
        packed = {
            node: {key: {"zlib": True, "shuffle": True} for key in found.data_vars if found[key].ndim == 3}
            for node, found in nodes.items()
            if node == "/history"
        }
        content = xr.DataTree.from_dict(nodes).to_netcdf(
            engine="h5netcdf", encoding=packed, write_inherited_coords=True
        )
        write_bytes(self.folder / name, bytes(content))

    def read(self, group: str) -> xr.Dataset | None:
        """Return one of `GROUPS`; None if it isn't there yet.

        Raises:
            InputError: the file is damaged, or of another spec.
        """
        name, node = GROUPS[group]
        path = self.folder / name
        if not path.exists():
            return None
        try:
            with xr.open_datatree(io.BytesIO(read_bytes(path)), engine="h5netcdf") as tree:
                if node != "/" and group not in tree.children:
                    return None
                loaded = tree[node].to_dataset().load()
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


def needed(found: xr.Dataset | None, refusal: str) -> xr.Dataset:
    """Return what a study holds, or refuse in these words if it doesn't hold it yet."""
    if found is None:
        raise InputError(refusal)
    return found


def write_kept(path: Path, dataset: xr.Dataset) -> None:
    """Write a Dataset for `read_kept`, as safetensors, some twenty times as fast as netCDF."""
    about = dataset.to_dict(data=False)
    places, arrays = about["coords"] | about["data_vars"], {}
    for name, variable in dataset.variables.items():
        if variable.dtype.kind in "biuf":
            arrays[str(name)] = np.asarray(variable.values, order="C")
        else:
            places[name]["data"] = variable.values.tolist()
    make_folder(path.parent)
    write_bytes(path, save(arrays, {"dataset": json.dumps(about)}))


def read_kept(path: Path) -> xr.Dataset | None:
    """Return the Dataset that `write_kept` wrote; None if it isn't there, or is damaged."""
    try:
        arrays, metadata = _read_tensors(path)
        about = json.loads(metadata["dataset"])
        places = about["coords"] | about["data_vars"]
        for name, values in arrays.items():
            places[name]["data"] = values
        return xr.Dataset.from_dict(about)
    except (InputError, KeyError, TypeError, ValueError):
        return None


def _read_tensors(path: Path) -> tuple[Arrays, dict[str, str]]:
    if not path.is_file():
        raise InputError(f"{path} isn't there; train the study first")
    try:
        with safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and train again") from error
