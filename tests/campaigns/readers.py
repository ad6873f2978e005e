"""The readers of files that may come from strangers, each with whole files to begin with."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from mutations import mutated, with_other_values
from safetensors.torch import save_file
from torch import nn

import nearzero as nz
from nearzero.grid import Grid
from nearzero.grid.spec import load_grid
from nearzero.study.spec import load_complete_spec, read_settings, resolve
from nearzero.torch_models.loading import load_data

__all__ = ["BY_BYTES", "BY_VALUES", "READERS", "Reader", "make_originals"]

STUDY = {
    **{"data": "digits", "runs": 6, "units": 8, "steps": 40, "batch_size": 64, "evaluate_every": 20},
    **{"learning_rate": 0.01, "verdict_draws": 1, "verdict_targets": [0.1, 0.3], "test": True},
}
GRID = """\
title = "Width"
vary = "units"
values = [4, 8]
[study]
data = "digits"
runs = 6
steps = 200
batch_size = 64
evaluate_every = 50
activations = ["relu"]
verdict_draws = 1
verdict_targets = [0.3]
"""


@dataclass(frozen=True)
class Reader:
    """A function that reads files below a folder.

    Attributes:
        folder: the part of the originals that it reads.
        files: globs of the files that are mutated, one in each case.
        read: reads all that a command would; it may raise an `InputError` alone.
        change: returns another content of a file, by random draws and contents of other files.
    """

    folder: str
    files: tuple[str, ...]
    read: Callable[[Path], Any]
    change: Callable[[bytes, Random, Sequence[bytes]], bytes] = mutated


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def make_originals(folder: Path) -> None:
    """Write whole files for all readers: arrays, weights, specs, a study, a grid and a probe."""
    _write_arrays(folder)
    _write_weights(folder / "weights")
    study = nz.Study.create(folder / "study", "quick", STUDY).train().sweep()
    study.judge(untrained=True, near_far=True)
    study.audit()
    (folder / "spec").mkdir()
    (folder / "spec" / "spec.toml").write_bytes((study.folder / "spec.toml").read_bytes())
    (folder / "spec" / "grid.toml").write_text(GRID)
    Grid.create(folder / "grid" / "width", folder / "spec" / "grid.toml").run(networks=folder / "networks")
    data = torch.randn(40, 4), torch.randint(3, (40,))
    design = nz.Design(families=("signed_shift", "gains", "cap"), targets=(0.1,), draws=1)
    nz.probe(_model(), data, levels=3, keep_items=True, design=design).save(folder / "probe")
    for path in folder.rglob("checksums"):  # a stranger writes checksums that fit
        path.unlink()


def _write_arrays(folder: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 4)).astype(np.float32), rng.integers(0, 3, 20)
    arrays = folder / "arrays"
    arrays.mkdir(parents=True)
    np.save(arrays / "a.npy", x)
    np.savez(arrays / "a.npz", x=x, y=y)
    np.savez_compressed(arrays / "b.npz", x=x, y=y)
    save_file({"x": torch.from_numpy(x), "y": torch.from_numpy(y)}, arrays / "a.safetensors")
    idx = folder / "idx"
    idx.mkdir()
    for part, count in (("train", 12), ("t10k", 8)):
        images = rng.integers(0, 256, (count, 4, 4)).astype(np.uint8)
        header = np.array([0x803, count, 4, 4], ">u4").tobytes()
        (idx / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = np.array([0x801, count], ">u4").tobytes() + (np.arange(count) % 3).astype(np.uint8).tobytes()
        (idx / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels, mtime=0))


def _write_weights(folder: Path) -> None:
    folder.mkdir()
    state = _model().state_dict()
    save_file(state, folder / "a.safetensors")
    torch.save(state, folder / "a.pt")
    torch.save({"state_dict": state, "epoch": 3}, folder / "b.pth")
    torch.save(state, folder / "c.pt", _use_new_zipfile_serialization=False)
    (folder / "sharded").mkdir()
    save_file(state, folder / "sharded" / "model-1.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(state, "model-1.safetensors")}
    (folder / "sharded" / "model.safetensors.index.json").write_text(json.dumps(index))


def _read_arrays(path: Path) -> None:
    nz.probe(_model(), load_data(str(path)), levels=2, progress=False)


def _read_weights(path: Path) -> None:
    nz.load_weights(_model(), path)


def _read_spec(path: Path) -> None:
    try:
        load_complete_spec(path)
    finally:
        resolve(settings=read_settings(path), origin=str(path))


def _read_study(path: Path) -> None:
    folder = path
    while not (folder / "spec.toml").exists() and folder != folder.parent:
        folder = folder.parent
    study = nz.Study.open(folder)
    study.verify()
    if "networks" in path.parts:
        activation, run, *step = path.stem.split("-")
        study.network(activation, int(run), step=int(step[0].removeprefix("step")) if step else None)
        return
    study.summary()
    study.tables()
    study.verdict()
    study._repr_html_()


def _read_grid(path: Path) -> None:
    grid = Grid.open(path.parent)
    grid.verify()
    grid.verdict().text()
    grid.read()
    grid.notices  # noqa: B018 (read)
    grid.provenance  # noqa: B018
    grid._repr_html_()


def _read_probe(path: Path) -> None:
    result = nz.ProbeResult.open(path.parent)
    print(result.headline, result.notes, result.summary(), result.assumptions)
    result.intervals()
    result.to_html()


READERS: Mapping[str, Reader] = {
    "idx": Reader("idx", ("*ubyte*",), lambda path: nz.datasets.load(str(path.parent))),
    "npy": Reader("arrays", ("*.npy",), _read_arrays),
    "npz": Reader("arrays", ("*.npz",), _read_arrays),
    "safetensors": Reader("arrays", ("*.safetensors",), _read_arrays),
    "weights": Reader("weights", ("*.safetensors",), _read_weights),
    "torch": Reader("weights", ("*.pt", "*.pth"), _read_weights),
    "index": Reader(
        "weights", ("sharded/*.json", "sharded/*.safetensors"), lambda path: _read_weights(path.parent)
    ),
    "spec": Reader("spec", ("spec.toml",), _read_spec),
    "grid-spec": Reader("spec", ("grid.toml",), load_grid),
    "study": Reader("study", ("*.nc", "*.toml", "*.json", "networks/**/*.safetensors"), _read_study),
    "study-values": Reader("study", ("*.nc",), _read_study, with_other_values),
    "grid": Reader("grid", ("width/*.nc", "width/*.toml", "width/*.json"), _read_grid),
    "grid-values": Reader("grid", ("width/*.nc",), _read_grid, with_other_values),
    "probe": Reader("probe", ("*.nc",), _read_probe),
    "probe-values": Reader("probe", ("*.nc",), _read_probe, with_other_values),
}
BY_BYTES = [name for name, reader in READERS.items() if reader.change is mutated]
BY_VALUES = [name for name in READERS if name not in BY_BYTES]
