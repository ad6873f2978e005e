"""The data of a study: loaded, checked against the study's record, and as its networks see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from weakref import WeakKeyDictionary, WeakValueDictionary

from nearzero.datasets import Dataset, load
from nearzero.errors import InputError
from nearzero.networks import Stack, initial_stack
from nearzero.networks.pixels import Pixels
from nearzero.study.journal import Journal
from nearzero.study.provenance import read_record, record_sitting
from nearzero.study.spec import Spec
from nearzero.study.store import Store
from nearzero.training.engine import Examples

__all__ = ["DataSource", "begin", "load_data"]


@dataclass(frozen=True)
class DataSource:
    """Which data: plain values, from which any process can load the same bytes.

    Attributes:
        name: of the data set, or of its folder.
        data_dir: a folder with the data files; None for the usual places.
        hashes: name and SHA-256 of each file or array.
        notice: of the data set, see `nearzero.datasets.Dataset`.
    """

    name: str
    data_dir: str | None
    hashes: tuple[tuple[str, str], ...]
    notice: str | None

    @classmethod
    def of(cls, data: Dataset, data_dir: str | None) -> DataSource:
        """Return where these data come from. In this process `load` gives these very data as long as they live."""
        source = cls(data.name, data_dir, tuple(sorted(data.hashes.items())), data.notice)
        _loaded.setdefault(source, data)
        return source

    def load(self) -> Dataset:
        """Return the data.

        Raises:
            InputError: they can't be found here, or have other contents.
        """
        return _loaded.get(self) or _load(self)

    def examples(self, spec: Spec) -> dict[str, Examples]:
        """Return training and test set as a spec's networks see them: the same objects as long as the data live."""
        data = self.load()
        raw = spec.pixels == "raw"
        gain, shift = (1.0, 0.0) if raw else (1 / (data.white * data.std), -data.mean / data.std)
        made = {
            name: Examples(Pixels(each.pixels, gain, shift), each.labels)
            for name, each in (("train", data.train), ("test", data.test))
        }
        return _examples.setdefault(data, {}).setdefault(spec.pixels, made)  # jobs on threads get one of them

    def initial(self, spec: Spec, activation: str, seeds: Sequence[int]) -> Stack:
        """Return the networks of some runs of a spec before their first step on these data."""
        data = self.load()
        inputs, classes = data.train.pixels.shape[1], data.classes
        return initial_stack(seeds, activation, inputs=inputs, units=spec.units, classes=classes)


_loaded: WeakValueDictionary[DataSource, Dataset] = WeakValueDictionary()
# by data and by how their pixels are seen, so that what's prepared for them is found again
_examples: WeakKeyDictionary[Dataset, dict[str, dict[str, Examples]]] = WeakKeyDictionary()


@lru_cache(maxsize=1)
def _load(source: DataSource) -> Dataset:
    """Return data that nobody in this process holds; they are kept for the jobs that follow."""
    data = load(source.name, data_dir=source.data_dir, report=lambda line: None)
    if tuple(sorted(data.hashes.items())) != source.hashes:
        raise InputError(f"{data.name} from {data.source} has other contents than this work was begun with")
    return data


def load_data(spec: Spec, data_dir: str | None, journal: Journal) -> Dataset:
    """Return the data of a spec. For the quick preset, 5,000 digits may replace MNIST, with a notice."""
    data = load(spec.data, data_dir=data_dir, substitute=spec.preset == "quick", report=journal.say)
    if data.notice:
        journal.warn(data.notice)
    return data


def begin(store: Store, data_dir: str | None, journal: Journal) -> DataSource:
    """Load a study's data and record this sitting; refuse to go on with other data than the study was begun with."""
    data = load_data(store.spec, data_dir, journal)
    record = read_record(store.folder)
    about = {"name": data.name, "source": data.source, "notice": data.notice, "sha256": dict(data.hashes)}
    if not store.begun:
        record.pop("data", None)
    before = record.setdefault("data", about)
    if before["sha256"] != about["sha256"]:
        raise InputError(
            f"{store.folder} was begun with {before['name']} from {before['source']}, and now {data.name} from "
            f"{data.source} has other contents; give the same data, or choose another folder"
        )
    record_sitting(store.folder, record, store.spec.device)
    return DataSource.of(data, data_dir)
