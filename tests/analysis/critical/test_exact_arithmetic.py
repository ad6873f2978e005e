"""Small networks of whole numbers, whose logits are known exactly at any level: rational arithmetic has no rounding.

Whole numbers make everything that is rare elsewhere: ties, dead units, two units alike, weights that are zero,
classes that are equal on a whole interval, events at one level.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import nearzero as nz
from nearzero.perturbations.families import BY_WEIGHTS, FAMILIES

ACT: dict[str, Callable[[Fraction], Fraction]] = {
    "relu": lambda y: max(y, Fraction(0)),
    "abs": abs,
    "leaky_relu": lambda y: y if y > 0 else y * Fraction(0.01),
}
CONDUCTS = {
    "relu": [
        nz.Conduct(),
        nz.Conduct(offset="as-written", clip="post"),
        nz.Conduct(offset="shift", clip_threshold="pr", range="pre"),
    ],
    "abs": [
        nz.Conduct(),
        nz.Conduct(offset="as-written", clip="post"),
        nz.Conduct(offset="shift", range="pre"),
    ],
    "leaky_relu": [nz.Conduct.default(["leaky_relu"]), nz.Conduct(offset="as-written", clip="post")],
}
CASES = [
    pytest.param(activation, family, conduct, id=f"{activation}-{family}-{number}")
    for activation in ACT
    for family in FAMILIES
    if family != "gains"
    for number, conduct in enumerate(CONDUCTS[activation])
]
NEAR = 1e-9  # intervals of rounding, where three logits meet in one point, are shorter
SHARES = (0.1013, 0.4871, 0.9123)  # of an interval; at round levels logits may touch


class Exact:
    """The network in rational numbers; ranges and levels are exact too."""

    def __init__(self, network: nz.TwoLayer, x: np.ndarray, family: nz.Family, conduct: nz.Conduct) -> None:
        self.act, self.family, self.conduct = ACT[network.activation], family, conduct
        self.w2, self.b2 = rational(network.w2), rational(network.b2)
        w1, b1 = rational(network.w1), rational(network.b1)
        self.z = [[dot(row, inputs) + b for row, b in zip(w1, b1, strict=True)] for inputs in rational(x)]
        after = [[self.act(each) for each in row] for row in self.z]
        self.live = [max(column) > min(column) for column in zip(*after, strict=True)]
        side = self.z if conduct.range == "pre" else after
        if family.name in ("cap", "floor"):
            side = after
        self.least = [min(column) for column in zip(*side, strict=True)]
        self.most = [max(column) for column in zip(*side, strict=True)]
        # what is drawn is the library's; that it's drawn well is tested elsewhere
        self.moves = rational(np.broadcast_to(family.at(1.0, nz.unit_ranges(network, x)).offset, len(w1)))

    def activation(self, n: int, u: int, p: Fraction) -> Fraction:
        z, least, most, name = self.z[n][u], self.least[u], self.most[u], self.family.name
        r = most - least
        if not self.live[u]:
            return self.act(z)
        if name == "scale":
            return self.act(p * z)
        if name in ("clip", "cap"):
            threshold = p * r + (0 if name == "clip" and self.conduct.clip_threshold == "pr" else least)
            after = name == "cap" or self.conduct.clip == "post"
            return min(self.act(z), threshold) if after else self.act(min(z, threshold))
        if name == "floor":
            return max(self.act(z), most - p * r)
        if name in ("offset", "signed_offset") and self.conduct.offset != "shift":
            sign = -1 if name == "signed_offset" and self.moves[u] < 0 else 1
            p *= sign
            scale = (most - p * r) / most if self.conduct.offset == "as-run" else (1 - p) * r
            return self.act(scale * z + p * r)
        if name in ("offset", "shift"):
            return self.act(z + p * r)
        return self.act(z + p * self.moves[u])

    def unperturbed(self, n: int) -> list[Fraction]:
        a = [self.act(z) for z in self.z[n]]
        return [dot(row, a) + b for row, b in zip(self.w2, self.b2, strict=True)]

    def logits(self, n: int, p: Fraction) -> list[Fraction]:
        a = [self.activation(n, u, p) for u in range(len(self.live))]
        return [dot(row, a) + b for row, b in zip(self.w2, self.b2, strict=True)]


def rational(values: np.ndarray) -> list:
    return [rational(each) if np.ndim(each) else Fraction(float(each)) for each in values]


def dot(a: list[Fraction], b: list[Fraction]) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[np.ndarray], np.ndarray]:
    """Weights and inputs: 1 to 5 units, 2 to 5 classes, 1 to 3 examples."""
    units, inputs, classes, examples = (draw(st.integers(*ends)) for ends in ((1, 5), (1, 2), (2, 5), (1, 3)))
    small = st.integers(-3, 3)
    shapes = [(units, inputs), (units,), (classes, units), (classes,)]
    return [draw(arrays(np.float32, shape, elements=small)) for shape in shapes], draw(
        arrays(np.float32, (examples, inputs), elements=st.integers(-4, 4))
    )


def of(w1: list, b1: list, w2: list, b2: list, x: list) -> tuple[list[np.ndarray], np.ndarray]:
    return [np.array(each, np.float32) for each in (w1, b1, w2, b2)], np.array(x, np.float32)


HARD = {
    # without a bias of the output all logits are 0 where all units are silent: the first class is meant
    "silent": of([[1], [-1]], [0, 1], [[1, 2], [3, 1], [2, 3]], [0, 0, 0], [[1], [2], [-3]]),
    # classes 0 and 2 differ in the second unit alone, and are equal where it's silent
    "equal": of([[1], [2]], [3, -1], [[2, 0], [0, 0], [2, 3]], [0, 1, 0], [[1], [2], [3]]),
    # two units alike, so that two events come at one level
    "alike": of([[1], [1], [-2]], [1, 1, 2], [[1, 2, -1], [0, 3, 1]], [1, 0], [[1], [-2]]),
    # all units dead, and two classes that tie
    "dead": of([[0], [0]], [1, -1], [[1, 1], [2, 0], [2, 0]], [0, 0, 0], [[1], [2]]),
}


@pytest.mark.parametrize("hard", HARD)
@pytest.mark.parametrize(("activation", "family", "conduct"), CASES)
def test_hard_cases(activation, family, conduct, hard):
    assert_exact(activation, family, conduct, *HARD[hard])


@pytest.mark.parametrize("activation", ACT)
@given(data=st.data())
@settings(max_examples=150)
def test_drawn_networks(activation, data):
    family = data.draw(st.sampled_from([name for name in FAMILIES if name != "gains"]), "family")
    conduct = data.draw(st.sampled_from(CONDUCTS[activation]), "conduct")
    assert_exact(activation, family, conduct, *data.draw(networks(), "network and inputs"))


def assert_exact(
    activation: str, family: str, conduct: nz.Conduct, weights: list[np.ndarray], x: np.ndarray
) -> None:
    """In every interval, at three levels, the prediction is the exact one."""
    network = nz.TwoLayer(*weights, activation)
    exact = Exact(network, x, nz.make_family(family, conduct, 7), conduct)
    found = nz.critical_levels(network, x, family=family, conduct=conduct, seed=7)
    assert found.exact
    # as run, with the slope of leaky ReLU and with norms numbers aren't whole, and floats can't tell that two
    # logits are equal
    as_run = family in ("offset", "signed_offset") and conduct.offset == "as-run"
    whole = activation != "leaky_relu" and not as_run and family not in BY_WEIGHTS
    for n in range(len(x)):
        part = slice(found.first[n], found.first[n + 1])
        starts, ends, classes = found.starts[part], found.ends[part], found.classes[part]
        assert starts[0] == found.low
        assert (starts < ends).all()
        assert (classes[1:] != classes[:-1]).all()
        for start, end, mine in zip(starts, ends, classes, strict=True):
            for share in SHARES if end - start > NEAR else ():
                logits = exact.logits(n, Fraction(start + share * (end - start)))
                if whole:
                    assert mine == logits.index(max(logits)), (n, start, end, logits)
                else:
                    assert max(logits) - logits[mine] <= 1e-12 * (1 + max(map(abs, logits)))
        unperturbed = exact.unperturbed(n)
        assert max(unperturbed) - unperturbed[found.unperturbed[n]] <= (0 if whole else 1e-12)
