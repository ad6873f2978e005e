"""The published tables 1 to 4, as values.

The facts are in `published.toml` beside this file, which ships with the package; this module only reads
them. Setting measured numbers beside them is the business of `nearzero.report`.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

__all__ = [
    "MeanAndSd",
    "Published",
    "PublishedBaseline",
    "PublishedResponse",
    "PublishedRow",
    "published",
]


@dataclass(frozen=True)
class MeanAndSd:
    """A mean over the published runs and its population standard deviation (ddof 0)."""

    mean: float
    sd: float


@dataclass(frozen=True)
class PublishedBaseline:
    """Table 1 for one network: train and test accuracy in percent, loss in nats."""

    train: MeanAndSd
    test: MeanAndSd
    loss: MeanAndSd


@dataclass(frozen=True)
class PublishedResponse:
    """One network at one level: accuracy in percent, and the paired t-test against `ttest_entry`."""

    accuracy: float
    t: float
    p: float


@dataclass(frozen=True)
class PublishedRow:
    """One row of tables 2 to 4: the named level, as a fraction, and the response of each network."""

    level: float
    networks: Mapping[str, PublishedResponse]


@dataclass(frozen=True)
class Published:
    """Everything the paper's tables say.

    Attributes:
        source: where they were published.
        runs: runs of each network.
        ttest_entry: index, from 0, of the grid entry that the published t-tests took for the baseline.
        baseline: table 1, by network.
        families: tables 2 (scale), 3 (clip) and 4 (offset), by family, levels ascending.
    """

    source: str
    runs: int
    ttest_entry: int
    baseline: Mapping[str, PublishedBaseline]
    families: Mapping[str, tuple[PublishedRow, ...]]


@cache
def published() -> Published:
    """Read the published tables; the same value each time."""
    text = files("nearzero.paper").joinpath("published.toml").read_text(encoding="utf-8")
    facts = tomllib.loads(text)
    networks = tuple(facts["networks"])
    return Published(
        source=facts["source"],
        runs=facts["runs"],
        ttest_entry=facts["ttest_entry"],
        baseline=MappingProxyType({name: _baseline(facts["baseline"][name]) for name in networks}),
        families=MappingProxyType(
            {
                family: tuple(_row(numbers, networks) for numbers in rows)
                for family, rows in facts["families"].items()
            }
        ),
    )


def _baseline(entry: Mapping[str, Any]) -> PublishedBaseline:
    return PublishedBaseline(**{quantity: MeanAndSd(*pair) for quantity, pair in entry.items()})


def _row(numbers: list[float], networks: tuple[str, ...]) -> PublishedRow:
    level, *rest = numbers
    triples = zip(rest[0::3], rest[1::3], rest[2::3], strict=True)
    responses = {name: PublishedResponse(*triple) for name, triple in zip(networks, triples, strict=True)}
    return PublishedRow(level, MappingProxyType(responses))
