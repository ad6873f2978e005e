"""The parts of an audit, as values: entries on faults, rows of the published tables, sentences.

`measure` measures, `evidence`, `faults` and `sentences` make these values, and `nearzero.report` prints them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nearzero.errors import InputError, did_you_mean
from nearzero.perturbations.activations import ACTIVATIONS
from nearzero.support.display import Displayed

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

Value = float | str | None  # a number, a text in its place, or nothing
Finding = Literal["survives", "survives in part", "doesn't survive", "not decided", "description only"]
ALPHA = 0.05  # of the paper's tests
MATCHED = 0.1  # the displacement at which levels and costs are compared
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
    """Return a network's name in its usual spelling: "ReLU" for "relu"."""
    return ACTIVATIONS[network].label if network in ACTIVATIONS else network


def points(margin: float) -> str:
    """Format a number of percentage points with its unit."""
    return f"{margin:g} {'point' if margin == 1 else 'points'}"


def sentence_case(text: str) -> str:
    """Capitalise the first letter of a text."""
    return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class FaultEntry:
    """One quantity of one network under a fault.

    Attributes:
        fault: its number, a key of `FAULTS`.
        network: its name in the study.
        quantity: the measured quantity, with its unit.
        published: the number in the paper; None if it prints none.
        as_run: on this study's networks, with the fault.
        put_right: on the same networks, without the fault.
        n: number of runs behind the numbers; None if they aren't means over runs.
        decimals: to print.
        note: a remark on the numbers, or the reason why there are none.
    """

    fault: int
    network: str
    quantity: str
    published: Value = None
    as_run: Value = None
    put_right: Value = None
    n: int | None = None
    decimals: int = 2
    note: str = ""


@dataclass(frozen=True)
class LevelRow:
    """A row of the published tables 2 to 4 for one network: published, as run, and put right.

    Attributes:
        network, family: their names in the study.
        level, grid: the published level and the measured one, as fractions.
        n: number of runs with a value.
        displacement: d in percent, mean over runs.
        published: accuracy in percent; None if the paper has no such network.
        as_run: accuracy in percent, mean over runs.
        put_right: the same with the family's own fault put right. Offset: the mean logit shift is subtracted;
            clip: after the activation; scale: the accuracy computed by algebra.
        agreement: percentage of predictions that don't change.
        test: accuracy in percent on the test set.
        t_published, p_published: printed in the paper, against entry 50 of the grid.
        t_entry, p_entry, t_identity, p_identity: of the paired t-tests against entry 50 and against the
            identity; None if there is no test.
        p_holm: `p_identity`, adjusted over all rows of all networks.
        within: whether the accuracy equals the identity's within the margin, by two one-sided tests; None
            with fewer than two runs. If all differences are equal, the difference itself is compared with the
            margin.
        reason: why there is no test against the identity; else empty.
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
    reason: str = ""


@dataclass(frozen=True)
class Sentence:
    """A statement of the paper, paraphrased, and the finding on it for one network.

    Attributes:
        name: a short name.
        text: the statement.
        rule: by which it is decided.
        network: for which it is decided.
        finding: by the rule.
        held, conditions: number of the rule's conditions that hold, and number of all.
        numbers: behind the finding, as text.
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
class Audit(Displayed):
    """The faults of the published study, measured on a study's own networks.

    Attributes:
        title: of the study.
        entries: by fault and network.
        levels: the rows of the published tables.
        sentences: by sentence and network.
        margin: the difference that matters, in percentage points.
        notices: warnings for a reader.
    """

    title: str
    entries: tuple[FaultEntry, ...]
    levels: tuple[LevelRow, ...]
    sentences: tuple[Sentence, ...]
    margin: float
    notices: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the sentences."""
        return tuple(dict.fromkeys(sentence.name for sentence in self.sentences))

    def of(self, name: str) -> str:
        """Return the finding on a sentence over all networks; if they differ, with that of each network in brackets.

        If all networks have the same finding, it is that. Else it is "not decided" if the sentence is
        undecided for any of them, and "survives in part" if it is decided for all.

        Raises:
            InputError: there is no such sentence.
        """
        own = [sentence for sentence in self.sentences if sentence.name == name]
        if not own:
            hint = did_you_mean(name, self.names)
            raise InputError(f"the sentences are {', '.join(self.names)}; {hint}got {name!r}")
        findings = {sentence.finding for sentence in own}
        if len(findings) == 1:
            return str(own[0].finding)
        detail = ", ".join(f"{label(sentence.network)}: {sentence.finding}" for sentence in own)
        undecided = {"not decided", "description only"} & findings
        return f"{'not decided' if undecided else 'survives in part'} ({detail})"

    def text(self) -> str:
        """Return each sentence with its finding, one per line."""
        texts = {sentence.name: sentence.text for sentence in self.sentences}
        return "\n".join(f"{texts[name]} {sentence_case(self.of(name))}." for name in self.names)
