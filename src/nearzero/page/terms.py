"""The words of a page: what its terms mean, and what each family does, from the docstrings of the families."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields

from nearzero.analysis.verdict import Rules
from nearzero.perturbations import noise
from nearzero.perturbations.families import Conduct, Offset, make_family
from nearzero.perturbations.noise import NOISES
from nearzero.report.render.markup import Markup, tag

__all__ = ["PAPER", "conduct_list", "description", "glossed", "roles", "terms", "unit_range"]

PAPER = "Alan Oursland, Neural Networks Use Distance Metrics, arXiv 2411.17932 (2024)"
FORMULA = re.compile(r"(as-run|as-written|shift): (y = [^;.]+)")
FORMULAS = re.compile(r"as-run: y = .*?shift: y = [^.]+\.")
END = re.compile(r"\n\s*\n(?:Attributes|Example):")
# What the switches of a study say, and the switches that set the options of a family.
MEANINGS = {
    "pixels": {
        "raw": "pixels from 0 to 255",
        "normalized": "pixels less their mean, over their standard deviation",
    },
    "offset": {
        "as-run": "the offset also scales z, so that the unit's maximum stays where it is",
        "as-written": "the formula of the paper's text, which changes the network at level 0 too",
        "shift": "the offset is added to z, and nothing else",
    },
    "clip": {"pre": "z is clipped, before the activation", "post": "the activation is clipped"},
    "clip_threshold": {"min+pr": "clipped at min + p r", "pr": "clipped at p r"},
    "range": {
        "post": "unit ranges are taken after the activation",
        "pre": "unit ranges are taken before the activation",
    },
    "ttest_baseline": {
        "identity": "t-tests are against the unperturbed network first",
        "published": "t-tests are against entry 50 of the family's levels first, as published",
    },
}
OPTIONS = {"formula": "offset", "side": "clip", "threshold": "clip_threshold", "range": "range"}
IN_SHORT = {
    "noise": "random numbers of one size, added to z.",
    "covariance_noise": "random numbers with the covariance of z, added to z.",
}
KINDS_OF_NOISE = ("Isotropic noise", "Covariance-shaped noise")  # as the documentation names them
NOT_DECIDING = {
    "offset": "the paper's; its level doesn't fix the size of the change, and as run it scales too",
    "scale": "the paper's; one factor for all units, which for ReLU and Abs changes predictions only through the "
    "output biases",
    "clip": "the paper's; before Abs it doesn't limit the negative side",
    "shift": "one direction for all units, which moves the boundaries of a pair relu(z), relu(-z) in opposite "
    "directions, and so misses distance that was planted in ReLU networks",
    "signed_offset": "as run it scales too",
    "permuted_shift": "a control: does a size that fits the unit matter?",
    "floor": "the mirror of cap, reported for comparison",
    "distance_shift": "a control: one distance for all boundaries",
    "signed_distance_shift": "a control: one distance for all boundaries",
    "noise": "neither distance nor intensity: what any change of this size costs",
    "covariance_noise": "neither distance nor intensity: what any change of this size and shape costs",
}


def unit_range(conduct: Conduct) -> str:
    """Return what a unit range is under a conduct, in words.

    Example:
        >>> import nearzero as nz
        >>> from nearzero.page.terms import unit_range
        >>> unit_range(nz.Conduct())
        "r = max - min of the unit's activations, taken after the activation, over the training set"
    """
    values, where = (
        ("activations", "after the activation")
        if conduct.range == "post"
        else ("pre-activations", "before the activation")
    )
    return f"r = max - min of the unit's {values}, taken {where}, over the training set"


def description(name: str, conduct: Conduct) -> str:
    """Return what a family does, from the docstring of its class, and the options that it has under a conduct.

    Example:
        >>> import nearzero as nz
        >>> from nearzero.page.terms import description
        >>> description("scale", nz.Conduct())
        "The paper's intensity scale: y = p z."
        >>> description("shift", nz.Conduct())[-49:]
        'Here: unit ranges are taken after the activation.'
    """
    if name in NOISES:
        paragraph = " ".join((noise.__doc__ or "").split("\n\n")[1].split()).partition(
            " The noise of an example"
        )[0]
        kinds = dict(zip(NOISES, KINDS_OF_NOISE, strict=True))
        return re.sub(
            rf"(?:{'|'.join(kinds[each] for each in NOISES if each != name)}): [^.]*\. ", "", paragraph
        )
    family = make_family(name, conduct)
    words = " ".join(END.split(inspect.getdoc(type(family)) or "")[0].replace("`", "").split())
    if isinstance(family, Offset):  # of its three formulas, the one in use
        formulas = dict(FORMULA.findall(words))
        words = FORMULAS.sub(f"{family.formula}: {formulas[family.formula]}.", words) if formulas else words
    options = [
        MEANINGS[OPTIONS[field.name]][getattr(family, field.name)]
        for field in fields(family)  # type: ignore[arg-type]
        if field.name in OPTIONS
    ]
    return f"{words} Here: {'; '.join(options)}." if options else words


def roles(rules: Rules) -> dict[str, str]:
    """Return the families that decide, and as what."""
    return dict.fromkeys(rules.distance, "distance") | dict.fromkeys(rules.intensity, "intensity")


def conduct_list(conduct: Mapping[str, str]) -> Markup:
    """Return the switches of a study with what each of them says."""
    lines = (
        f"{key.replace('_', ' ')} {value}: {MEANINGS.get(key, {}).get(value, 'see the documentation')}"
        for key, value in conduct.items()
    )
    return tag("ul", [tag("li", line) for line in lines], class_="plain")


def terms(families: Iterable[str], rules: Rules, conduct: Conduct) -> Markup:
    """Return the definitions of the page's terms, and of the families that it shows."""
    decides, names = roles(rules), list(dict.fromkeys(families))
    chosen = [name for name in names if name in decides]
    others = [name for name in names if name not in decides]
    words = {
        "unit, z, a": "A hidden unit computes z = w x + b, its pre-activation, and a = act(z), its activation.",
        "boundary": "The inputs at which a unit's z is 0: where ReLU starts, and where Abs folds.",
        "distance": "What a unit measures if its activation tells how far an input is from its boundary or, for "
        "Abs, from a prototype on it. It is tested by moving boundaries, which families of distance do.",
        "intensity": "What a unit measures if its activation tells how strongly a feature is present. It is tested "
        "by changing activations without moving the boundary, which families of intensity do.",
        "family, level p": "A family turns a level p into a change of every unit. The identity is the level at "
        "which it changes nothing.",
        "unit range r": f"{unit_range(conduct)}. At equal displacement, the reference half of the training set.",
        "displacement d": "The size of a change of the activations: d = sqrt(sum ||a' - a||² / sum ||a||²), over "
        "examples and units. Families are compared at levels of equal displacement.",
        "cost": f"{rules.measure.replace('_', ' ')} of the unperturbed network less that of the perturbed one, in "
        "percentage points.",
        "D": "Mean over runs of the cost of distance minus that of intensity, at equal displacement.",
        "distance costs more": f"D exceeds the margin of {rules.margin:g} (minimum-effect test, Holm); intensity "
        f"costs more: D is below -{rules.margin:g}."
        if rules.test == "minimum-effect"
        else "D is above 0 and exceeds the margin; intensity costs more: the opposite.",
        "no effect": "Both costs are below the margin: the change is too small to tell anything.",
        "equivalent": "The changes may cost something, but their costs differ by less than the margin.",
        "inconclusive": "None of these: the runs don't decide.",
        "whitened size": "Levels give equal sizes in the metric of the activations' covariance, instead of equal "
        "displacement.",
        "centred logit change": "Levels give equal changes of the logits, their mean change taken out.",
        "centred accuracy": "The mean change of the logits is taken out before the accuracy is measured.",
        "held-out data": "The responses are measured on the test set; ranges and levels are as before.",
        "the rules": "What decides a verdict, as the study's spec has it: the families that stand for distance and for "
        "intensity, the displacements, the margin, the test and its error rate. A check repeats the verdict in one "
        "other way.",
        "mixed": "Some comparison finds that distance costs more, and another that intensity does.",
        "holds, turns, undecided": "What a check says of the direction that the rules find: it holds if it finds the "
        "same direction, turns if any of its comparisons finds the opposite one, and is undecided otherwise.",
        "changes with": "A finding changes with a check if the check turns: measured in that way, some comparison "
        "finds the opposite.",
        "robust": "Each of the other ways of measuring finds the same direction in at least one comparison, and "
        "none finds the opposite one. It doesn't say that they find it as often, or as large.",
        "planted networks": "Networks whose weights are set by hand, so that the mechanism is known: in those that "
        "measure distance the smallest activation wins, in those that match templates the largest. Strength: the "
        "distance between two class prototypes, in standard deviations of the noise in the inputs.",
        "audit": "The paper's main sentences in other words, each decided on this study's networks by a rule: it "
        "survives, survives in part, doesn't survive, or isn't decided.",
    }
    return tag(
        "div",
        tag(
            "dl",
            [
                (tag("dt", term, id=f"term-{_slug(term)}"), tag("dd", meaning))
                for term, meaning in words.items()
            ],
        ),
        tag("h3", "Families that decide the verdict") if chosen else None,
        _families(chosen, conduct, decides),
        tag("h3", "Families that are measured and don't decide") if others else None,
        _families(others, conduct, NOT_DECIDING),
    )


def glossed(families: Iterable[str], rules: Rules, conduct: Conduct) -> Markup:
    """Return a paragraph that says in short what the families of the verdict and noise do, with links to the terms.

    Args:
        families: those that were measured.
        rules: the rules of the verdict.
        conduct: the study's reading of the protocol.
    """
    decides = roles(rules)
    said = decides | {name: "neither" for name in families if name in NOISES and name not in decides}
    return tag(
        "p",
        tag("strong", "Families on this screen. "),
        [
            (tag("a", name, href=f"#term-{_slug(name)}"), f" ({role}): {_in_short(name, conduct)} ")
            for name, role in said.items()
        ],
        [
            (tag("a", word, href=f"#term-{_slug(term)}"), ending)
            for word, term, ending in (
                ("Displacement", "displacement d", ", "),
                ("the rules", "the rules", ", "),
                ("the audit", "audit", " and other words are in Terms."),
            )
        ],
        class_="caption",
    )


def _slug(term: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", term.lower()).strip("-")


def _in_short(name: str, conduct: Conduct) -> str:
    """Return the first words of a family's description, up to its formula."""
    if name in NOISES:
        return IN_SHORT[name]
    return f"{re.split(r'[:.] ', description(name, conduct))[0].rstrip('.')}."


def _families(names: Iterable[str], conduct: Conduct, remarks: Mapping[str, str]) -> Markup:
    return tag(
        "dl",
        [
            (
                tag("dt", tag("code", name), id=f"term-{_slug(name)}"),
                tag("dd", description(name, conduct), tag("em", f" {_remark(remarks.get(name, ''))}")),
            )
            for name in names
        ],
    )


def _remark(words: str) -> str:
    return f"Decides as {words}." if words in ("distance", "intensity") else f"({words})" if words else ""
