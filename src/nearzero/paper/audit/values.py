"""What an audit consists of, as values: entries on faults, rows of the published tables, sentences.

How they are measured is in `measure`, how they are made in `evidence`, `faults` and `sentences`, how they look in
`nearzero.report`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from nearzero.errors import InputError
from nearzero.perturbations.activations import ACTIVATIONS

__all__ = [
    "ALPHA",
    "FAULTS",
    "MATCHED",
    "Audit",
    "FaultEntry",
    "Finding",
    "LevelRow",
    "Sentence",
    "Value",
    "label",
    "points",
    "sentence_case",
]

Value = float | str | None  # a number, words in its place, or nothing to say
Finding = Literal["survives", "survives in part", "doesn't survive", "not decided", "description only"]
ALPHA = 0.05  # of the paper's tests
MATCHED = 0.1  # the displacement for which levels and costs are shown
FAULTS = {
    1: "wrong t-test baseline",
    2: "raw or normalised pixels",
    3: "dead units give NaN",
    4: "clip before Abs",
    5: "scale flat by algebra",
    6: "offset carries a constant",
    7: "sizes not matched",
    8: "p > 0.05 read as no effect",
    9: "ranges from extremes",
    10: "accuracy saturates",
    11: "many tests, crossed examples",
    12: "runs depend on their order",
}


def label(network: str) -> str:
    """How a network is called in words."""
    return ACTIVATIONS[network].label if network in ACTIVATIONS else network


def points(margin: float) -> str:
    """Return a number of percentage points with its unit."""
    return f"{margin:g} {'point' if margin == 1 else 'points'}"


def sentence_case(words: str) -> str:
    """Return words with a capital for their first letter."""
    return words[:1].upper() + words[1:]


@dataclass(frozen=True)
class FaultEntry:
    """One quantity of one network under a fault.

    Attributes:
        fault: its number, a key of `FAULTS`.
        network: its name in the study.
        quantity: what is measured, with its unit.
        published: what the paper prints; None where it prints nothing.
        as_run: on this study's networks, with the fault.
        put_right: on these networks, without it.
        n: runs behind the numbers; None where they aren't means over runs.
        decimals: how many a reader wants to see.
        words: what has to be said beside the numbers.
    """

    fault: int
    network: str
    quantity: str
    published: Value = None
    as_run: Value = None
    put_right: Value = None
    n: int | None = None
    decimals: int = 2
    words: str = ""


@dataclass(frozen=True)
class LevelRow:
    """A row of the published tables 2 to 4 for one network, with what is put right beside it.

    Attributes:
        network, family, level, grid: the published level and the one measured, as fractions.
        n: runs with a value.
        displacement: d in percent, mean over runs.
        published: accuracy in percent; None for a network that the paper hasn't.
        as_run: accuracy in percent, mean over runs.
        put_right: the same with the family's own fault put right. Offset: the mean logit shift taken out; clip: after
            the activation; scale: what algebra says.
        agreement: percent of predictions that stay as they were.
        test: accuracy in percent on the test set.
        t_published, p_published: as the paper prints them, against entry 50 of the grid.
        t_entry, p_entry, t_identity, p_identity: of the paired t-tests against entry 50 and against the identity;
            None where there is no test.
        p_holm: the latter adjusted over all rows of all networks.
        within: whether the accuracy is the identity's within the margin, by two one-sided tests; None where there are
            fewer than two runs. Where all differences are equal these are themselves held against the margin.
        words: what stands in place of a test.
    """

    network: str
    family: str
    level: float
    grid: float
    n: int
    displacement: float | None
    published: float | None
    as_run: float | None
    put_right: float | None
    agreement: float | None
    test: float | None
    t_published: float | None
    p_published: float | None
    t_entry: float | None
    p_entry: float | None
    t_identity: float | None
    p_identity: float | None
    p_holm: float | None
    within: bool | None
    words: str = ""


@dataclass(frozen=True)
class Sentence:
    """A statement of the paper, in other words than its own, and what is left of it for one network.

    Attributes:
        name: a short one.
        text: the statement.
        rule: what decides.
        network: for which it's decided.
        finding: what the rule says.
        held, conditions: how many of the rule's conditions hold, of how many.
        numbers: behind it.
    """

    name: str
    text: str
    rule: str
    network: str
    finding: Finding
    held: int
    conditions: int
    numbers: str


@dataclass(frozen=True)
class Audit:
    """The faults of the published study, measured on a study's own networks.

    Attributes:
        title: of the study.
        entries: by fault and network.
        levels: the rows of the published tables.
        sentences: by sentence and network.
        margin: the difference that matters, in percentage points.
        notices: what a reader must know first.
    """

    title: str
    entries: tuple[FaultEntry, ...]
    levels: tuple[LevelRow, ...]
    sentences: tuple[Sentence, ...]
    margin: float
    notices: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sentences."""
        return tuple(dict.fromkeys(each.name for each in self.sentences))

    def of(self, name: str) -> str:
        """What is left of a sentence over all networks: the finding, and those of the networks where they differ.

        It survives, or doesn't, if that's so of every network; else it survives in part.

        Raises:
            InputError: there is no such sentence.
        """
        own = [each for each in self.sentences if each.name == name]
        if not own:
            raise InputError(f"the sentences are {', '.join(self.names)}; got {name!r}")
        found = Counter(each.finding for each in own)
        if len(found) == 1:
            return str(own[0].finding)
        detail = ", ".join(f"{label(each.network)}: {each.finding}" for each in own)
        open_ones = {"not decided", "description only"} & set(found)
        return f"{'not decided' if open_ones else 'survives in part'} ({detail})"

    def text(self) -> str:
        """What is left of each sentence, in lines."""
        texts = {each.name: each.text for each in self.sentences}
        return "\n".join(f"{texts[name]} {sentence_case(self.of(name))}." for name in self.names)
