"""The published tables 1 to 4, as values.

The numbers are in `published.toml`, beside this file and in the package; this module reads them.
`nearzero.report` compares measured numbers with them.
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
    """One network at one level: accuracy in percent, and the paired t-test against entry `ttest_entry`."""

    accuracy: float
    t: float
    p: float


@dataclass(frozen=True)
class PublishedRow:
    """A row of tables 2 to 4: the published level, as a fraction, and the response of each network."""

    level: float
    networks: Mapping[str, PublishedResponse]


@dataclass(frozen=True)
class Published:
    """All numbers of the paper's tables.

    Attributes:
        source: of the tables.
        runs: number of runs of each network.
        ttest_entry: index, from 0, of the grid entry that the published t-tests used as their baseline.
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
    """Return the published tables. They are read once.

    Source: the paper, arXiv 2411.17932, tables 1 to 4.

    Example:
        >>> from nearzero.paper.published import published
        >>> published().baseline["abs"].test  # table 1
        MeanAndSd(mean=95.29, sd=0.2)
        >>> [row.level for row in published().families["scale"]][:3]  # table 2
        [0.01, 0.05, 0.1]
    """
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
