"""The networks of a grid: trained where they aren't there yet, and read.

Those of a study's own shape are trained by that study, in a folder named by its spec's digest, so that grids with a
study in common train it once. Deeper ones lie beside it, a file each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from nearzero.datasets import Dataset
from nearzero.errors import InputError
from nearzero.files import make_folder, write_bytes
from nearzero.grid.spec import Point
from nearzero.networks import TwoLayer
from nearzero.study import Study
from nearzero.study.journal import Bar, Journal
from nearzero.study.spec import Spec, spec_digest
from nearzero.study.steps import examples_of
from nearzero.study.store import Store
from nearzero.threads import one_torch_thread, parallel, thread_count
from nearzero.training.deep import deep_network, train_deep
from nearzero.training.train import NEVER

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Networks"]


@dataclass(frozen=True)
class Networks:
    """Where the networks of grids lie."""

    folder: Path

    def train(
        self, point: Point, data: Dataset, journal: Journal, *, data_dir: str | None, console: Console | None
    ) -> None:
        """Train what isn't there yet of a point."""
        if point.layers is None:
            self._study(point.spec).train(data_dir=data_dir, console=console)
            return
        spec, examples = point.spec, examples_of(point.spec, data)["train"]
        for name in spec.activations:
            missing = [run for run in range(spec.runs) if not self._path(point, name, run).exists()]
            if not missing:
                continue
            journal.say(f"training {name}, {point.label}: {len(missing)} runs, {spec.steps:,} steps")
            with (
                journal.timed(f"trained {name}, {point.label}"),
                journal.bar(point.label, len(missing)) as bar,
            ):
                make_folder(self._path(point, name, 0).parent)
                done = count(1)

                def work(run: int, name: str = name, done: Iterator[int] = done, bar: Bar = bar) -> None:
                    network = self._empty(point, name, run, data)
                    train_deep(network, examples, spec.recipe, seed=spec.seeds[run], device=spec.device)
                    write_bytes(self._path(point, name, run), save_tensors(network.state_dict()))
                    bar(next(done))

                with one_torch_thread():
                    parallel(work, missing, thread_count())

    def read(self, point: Point, name: str, run: int, data: Dataset) -> TwoLayer | nn.Sequential | None:
        """A network of a point; None if it diverged or never reached the checkpoint.

        Raises:
            InputError: its file isn't one.
        """
        if point.layers is not None:
            return self._deep(point, name, run, data)
        study = self._study(point.spec)
        if int(study.history.diverged_at.sel(network=name, run=run)) != NEVER:
            return None
        step = None
        if point.checkpoint is not None:
            reached = study.history.checkpoint_step.sel(network=name, run=run, threshold=point.checkpoint)
            if int(reached) == NEVER:
                return None
            step = int(reached)
        return study.network(name, run, step=step)

    def _study(self, spec: Spec) -> Study:
        return Study(Store.create(self.folder / spec_digest(spec)[:12], spec))

    def _path(self, point: Point, name: str, run: int) -> Path:
        folder = f"{spec_digest(point.spec)[:12]}-{point.layers}-layers"
        return self.folder / folder / f"{name}-{run:02d}.safetensors"

    def _empty(self, point: Point, name: str, run: int, data: Dataset) -> nn.Sequential:
        assert point.layers is not None
        return deep_network(
            name,
            point.layers,
            inputs=data.train.pixels.shape[1],
            units=point.spec.units,
            classes=data.classes,
            seed=point.spec.seeds[run],
        )

    def _deep(self, point: Point, name: str, run: int, data: Dataset) -> nn.Sequential | None:
        network, path = self._empty(point, name, run, data), self._path(point, name, run)
        try:
            network.load_state_dict(load_tensors(path.read_bytes()))
        except (SafetensorError, RuntimeError, OSError) as error:
            raise InputError(
                f"{path} isn't a network of this grid ({str(error).splitlines()[0]}); delete it and run again"
            ) from error
        finite = all(bool(weights.isfinite().all()) for weights in network.parameters())
        return network if finite else None
