"""`Store`: the files in a study's folder. No other module writes a study's results.

    spec.toml            the complete spec
    provenance.json      data hashes, and versions, platform and git state of each session
    log                  lines with times
    networks/            one safetensors file per run; those of checkpoints are in checkpoints/
    results.nc           responses (root group) and training history (group "history")
    analysis.nc          groups "matched", "untrained", "parts", see `nearzero.study.analysis`
    audit.nc             the faults of the published study, measured on these networks
    tables/, figures/    written by `nearzero.report`
    page.html            everything on one page, made by `nearzero.page`
    state/               the progress of an unfinished step, removed when the step is done

`nearzero.study.steps` computes the contents.
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
from nearzero.study.spec import VERDICT, Spec, differing_key, load_complete_spec, spec_digest, spec_text
from nearzero.support.files import begin_folder, make_folder, read_bytes, write_bytes
from nearzero.training.train import History, Progress

__all__ = ["Arrays", "Store", "needed", "read_kept", "write_kept"]

Arrays = dict[str, np.ndarray[Any, Any]]
WEIGHTS = ("w1", "b1", "w2", "b2")
SPEC = "spec.toml"
# The file of each group of results, and its path in the file.
GROUPS = {
    "response": ("results.nc", "/"),
    "history": ("results.nc", "/history"),
    **{group: ("analysis.nc", f"/{group}") for group in ("matched", "untrained", "parts")},
    "audit": ("audit.nc", "/"),
}


@dataclass(frozen=True)
class Store:
    """The files of a study.

    Attributes:
        folder: the study's folder.
    """

    folder: Path

    # --- the folder itself ---

    @classmethod
    def create(cls, folder: Path, spec: Spec) -> Store:
        """Return the store of a new study, or of the one in the folder if it has the same spec.

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
    def kept_rules(cls, folder: Path) -> dict[str, Any]:
        """Return the rules of the verdict of the study in a folder; none if no study was begun there."""
        store = cls(folder)
        if not (folder / SPEC).exists() or not store.begun:
            return {}
        return store.spec.model_dump(mode="json", include=set(VERDICT))

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Return the store of the study in a folder.

        Raises:
            InputError: the folder holds no study.
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
        """Return the spec from its file."""
        return load_complete_spec(self.folder / SPEC)

    @property
    def begun(self) -> bool:
        """Return whether anything was computed; until then the spec may change."""
        return any((self.folder / name).exists() for name in ("networks", "state", "results.nc"))

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

    def _network_file(self, activation: str, run: int, step: int | None) -> tuple[Path, dict[str, Any]]:
        """Return the path of a network, trained (None) or at a checkpoint, and its metadata."""
        spec, name, folder = self.spec, f"{activation}-{run:02d}", self.folder / "networks"
        if step is None:
            step = spec.steps
        else:
            name, folder = f"{name}-step{step:06d}", folder / "checkpoints"
        metadata = {"activation": activation, "seed": spec.seeds[run], "step": step}
        return folder / f"{name}.safetensors", metadata

    def write_network(self, network: TwoLayer, run: int, step: int | None = None) -> None:
        """Write the network of a run, trained (None) or at a checkpoint."""
        path, metadata = self._network_file(network.activation, run, step)
        make_folder(path.parent)
        # all of it under one key: safetensors doesn't keep the order of several, so files would differ
        packed = {"network": json.dumps(metadata, sort_keys=True)}
        write_bytes(path, save({name: getattr(network, name) for name in WEIGHTS}, packed))

    def read_network(self, activation: str, run: int, step: int | None = None) -> TwoLayer:
        """Return the network of a run, trained (None) or at a checkpoint.

        Raises:
            InputError: the file is missing or damaged, or holds another network.
        """
        path, expected = self._network_file(activation, run, step)
        arrays, packed = _read_tensors(path)
        try:
            metadata = json.loads(packed["network"])
            w1, b1, w2, b2 = (arrays[name] for name in WEIGHTS)
            network = TwoLayer(w1, b1, w2, b2, metadata["activation"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} isn't a network of a study ({error}); delete it and train again"
            ) from error
        if metadata != expected:
            raise InputError(
                f"{path} holds another network, {metadata}, than {expected}; delete it and train again"
            )
        return network

    # --- the state of an unfinished step ---

    def clear_state(self) -> None:
        """Remove the state of unfinished steps."""
        shutil.rmtree(self.folder / "state", ignore_errors=True)

    def _progress_path(self, activation: str) -> Path:
        return self.folder / "state" / f"training-{activation}.safetensors"

    def save_progress(self, activation: str, progress: Progress, stack: Stack) -> None:
        """Write the state of the training of all runs of one network."""
        arrays = {name: getattr(stack, name) for name in WEIGHTS}
        arrays |= {field.name: getattr(progress.history, field.name) for field in fields(History)}
        arrays["step"] = np.array([progress.step])
        make_folder(self.folder / "state")
        arrays = {key: np.asarray(value, order="C") for key, value in arrays.items()}
        write_bytes(self._progress_path(activation), save(arrays, {"spec": spec_digest(self.spec)}))

    def load_progress(self, activation: str) -> tuple[Progress, Stack] | None:
        """Return the state of the training of all runs of one network; None if training must begin anew.

        That is the case if there is no such state, or if it is damaged, belongs to another spec, or has
        measurements at other steps.
        """
        try:
            arrays, metadata = _read_tensors(self._progress_path(activation))
        except InputError:
            return None
        if metadata.get("spec") != spec_digest(self.spec) or not {*WEIGHTS, "step"} <= set(arrays):
            return None
        if arrays["loss"].shape[1] != len(self.spec.recipe.schedule):
            return None
        history = History(**{field.name: arrays[field.name] for field in fields(History)})
        w1, b1, w2, b2 = (arrays[name] for name in WEIGHTS)
        return Progress(int(arrays["step"][0]), history), Stack(w1, b1, w2, b2, (activation,) * len(w1))

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
        content = xr.DataTree.from_dict(nodes).to_netcdf(
            engine="h5netcdf", encoding=compression, write_inherited_coords=True
        )
        write_bytes(self.folder / name, bytes(content))

    def read(self, group: str) -> xr.Dataset | None:
        """Return one of `GROUPS`; None if it isn't there yet.

        Raises:
            InputError: the file is damaged, or belongs to another spec.
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
        """Refuse results that belong to another spec than the study's.

        Raises:
            InputError: names a key in which the specs differ.
        """
        try:
            made_with = tomllib.loads(results.attrs["spec"])
        except (KeyError, TypeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path} doesn't say which spec it belongs to; delete it") from error
        current = self.spec.model_dump(mode="json")
        key = differing_key(made_with, current)
        if key is not None:
            raise InputError(
                f"{path} was made with {key} = {made_with.get(key)!r}, but {SPEC} says {current[key]!r}; "
                f"restore {SPEC}, or begin another study"
            )


def needed(results: xr.Dataset | None, refusal: str) -> xr.Dataset:
    """Return the results of a study.

    Raises:
        InputError: they are None; `refusal` is the message.
    """
    if results is None:
        raise InputError(refusal)
    return results


def write_kept(path: Path, dataset: xr.Dataset) -> None:
    """Write a Dataset for `read_kept`, as safetensors: some twenty times as fast as netCDF."""
    contents = dataset.to_dict(data=False)
    variables, arrays = contents["coords"] | contents["data_vars"], {}
    for name, variable in dataset.variables.items():
        if variable.dtype.kind in "biuf":
            arrays[str(name)] = np.asarray(variable.values, order="C")
        else:
            variables[name]["data"] = variable.values.tolist()
    make_folder(path.parent)
    write_bytes(path, save(arrays, {"dataset": json.dumps(contents)}))


def read_kept(path: Path) -> xr.Dataset | None:
    """Return the Dataset that `write_kept` wrote; None if the file is missing or damaged."""
    try:
        arrays, metadata = _read_tensors(path)
        contents = json.loads(metadata["dataset"])
        variables = contents["coords"] | contents["data_vars"]
        for name, values in arrays.items():
            variables[name]["data"] = values
        return xr.Dataset.from_dict(contents)
    except (InputError, KeyError, TypeError, ValueError):
        return None


def _read_tensors(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Return the arrays and the metadata of a safetensors file.

    Raises:
        InputError: the file is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path} isn't there; train the study first")
    try:
        with safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and train again") from error
