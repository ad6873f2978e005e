"""The data of a study: load them, check them against its record, and prepare them for its networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from nearzero.datasets import Dataset, load, names
from nearzero.errors import InputError
from nearzero.networks import Stack, initial_stack
from nearzero.networks.pixels import Pixels
from nearzero.study.journal import Journal
from nearzero.study.provenance import read_record, record_session
from nearzero.study.spec import Spec
from nearzero.study.store import Store
from nearzero.training.engine import Examples

__all__ = ["DataSource", "SampledSource", "begin", "begin_with", "load_data", "recorded_data"]


@dataclass(frozen=True)
class DataSource:
    """The identity of a study's data, as plain values: any process can load the same bytes from them.

    Attributes:
        name: of the data set, or of its folder.
        data_dir: the folder with the data files; None for the usual places.
        hashes: name and SHA-256 of each file or array.
        notice: of the data set, see `nearzero.datasets.Dataset`.
    """

    name: str
    data_dir: str | None
    hashes: tuple[tuple[str, str], ...]
    notice: str | None

    @classmethod
    def of(cls, data: Dataset, data_dir: str | None) -> DataSource:
        """Return the source of loaded data; in this process `load` returns this object while it exists."""
        place = data_dir if data.name in names() else data.name
        # absolute, since a worker may have another working folder
        place = None if place is None else str(Path(place).expanduser().absolute())
        source = cls(data.name, place, tuple(sorted(data.hashes.items())), data.notice)
        _loaded.setdefault(source, data)
        return source

    def load(self) -> Dataset:
        """Return the data.

        Raises:
            InputError: the data can't be found, or have other contents.
        """
        return _loaded.get(self) or _load(self)

    def examples(self, spec: Spec) -> dict[str, Examples]:
        """Return training and test set with the spec's pixels; the same objects as long as the data exist."""
        data = self.load()
        raw = spec.pixels == "raw"
        gain, shift = (1.0, 0.0) if raw else (1 / (data.white * data.std), -data.mean / data.std)
        prepared = {
            name: Examples(Pixels(split.pixels, gain, shift), split.labels)
            for name, split in (("train", data.train), ("test", data.test))
        }
        # if several threads come here at once, setdefault gives all of them the same objects
        return _examples.setdefault(data, {}).setdefault(spec.pixels, prepared)

    def initial(self, spec: Spec, activation: str, seeds: Sequence[int]) -> Stack:
        """Return the networks with these seeds before their first training step."""
        data = self.load()
        inputs, classes = data.train.pixels.shape[1], data.classes
        return initial_stack(seeds, activation, inputs=inputs, units=spec.units, classes=classes)


@dataclass(frozen=True)
class SampledSource(DataSource):
    """Some of the examples of a study's data, the first of each set, for estimates of time.

    Attributes:
        most: the number of examples of each set.
    """

    most: int

    @classmethod
    def sample(cls, source: DataSource, most: int) -> SampledSource:
        """Return the source of at most so many of the examples of a source."""
        return cls(source.name, source.data_dir, source.hashes, source.notice, most)

    def load(self) -> Dataset:
        """Return all of the data."""
        return self._whole.load()

    def examples(self, spec: Spec) -> dict[str, Examples]:
        """Return training and test set, cut."""
        sets = self._whole.examples(spec)
        return {
            name: Examples(
                replace(whole.pixels, values=whole.pixels.values[: self.most]), whole.labels[: self.most]
            )
            for name, whole in sets.items()
        }

    @property
    def _whole(self) -> DataSource:
        return DataSource(self.name, self.data_dir, self.hashes, self.notice)


_loaded: WeakValueDictionary[DataSource, Dataset] = WeakValueDictionary()
# by data and kind of pixels ("raw" or "normalized"), so that arrays prepared for them are used again
_examples: WeakKeyDictionary[Dataset, dict[str, dict[str, Examples]]] = WeakKeyDictionary()


@lru_cache(maxsize=1)
def _load(source: DataSource) -> Dataset:
    """Return data that aren't in this process yet; they are kept for the jobs that follow.

    Raises:
        InputError: the data can't be found, or have other contents.
    """
    if source.name in names():
        data = load(source.name, data_dir=source.data_dir, report=lambda line: None)
    else:
        data = load(Path(source.data_dir or source.name), report=lambda line: None)
    if tuple(sorted(data.hashes.items())) != source.hashes:
        raise InputError(f"{data.name} from {data.source} has other contents than when this work began")
    return data


def load_data(spec: Spec, data_dir: str | None, journal: Journal) -> Dataset:
    """Return the data of a spec; for the quick preset, 5,000 digits may replace MNIST, with a notice.

    Raises:
        InputError: the data can't be found.
    """
    data = load(spec.data, data_dir=data_dir, substitute=spec.preset == "quick", report=journal.say)
    if data.notice:
        journal.warn(data.notice)
    return data


def begin(store: Store, data_dir: str | None, journal: Journal) -> DataSource:
    """Load a study's data, record this session, and return the source of the data.

    Raises:
        InputError: the data can't be found, or aren't those that the study was begun with.
    """
    return begin_with(store, DataSource.of(load_data(store.spec, data_dir, journal), data_dir))


def begin_with(store: Store, source: DataSource) -> DataSource:
    """Record this session of a study, and return the source of its data, which was given.

    Raises:
        InputError: as for `begin`.
    """
    record_session(store.folder, _checked_record(store, source.load()), store.spec.device)
    return source


def recorded_data(store: Store, data_dir: str | None, journal: Journal) -> DataSource:
    """Load a study's data and return their source, as `begin` does, but write nothing.

    Raises:
        InputError: as for `begin`.
    """
    source = DataSource.of(load_data(store.spec, data_dir, journal), data_dir)
    _checked_record(store, source.load())
    return source


def _checked_record(store: Store, data: Dataset) -> dict[str, Any]:
    """Return a study's record with its data, which must be these.

    Raises:
        InputError: as for `begin`.
    """
    record = read_record(store.folder)
    used = {"name": data.name, "source": data.source, "notice": data.notice, "sha256": dict(data.hashes)}
    if not store.begun:
        record.pop("data", None)
    recorded = record.setdefault("data", used)
    if recorded["sha256"] != used["sha256"]:
        raise InputError(
            f"{store.folder} was begun with {recorded['name']} from {recorded['source']}, and now {data.name} from "
            f"{data.source} has other contents; give the same data, or choose another folder"
        )
    return record
