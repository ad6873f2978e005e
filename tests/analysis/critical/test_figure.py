"""The figures of critical levels: what is drawn is what was found."""

import numpy as np
import pytest

import nearzero as nz
from nearzero.networks import initial_stack
from nearzero.report.figures.critical import breaking_figure, critical_figure
from nearzero.report.figures.style import figure_bytes

FAMILIES = ("scale", "clip", "shift")


@pytest.fixture(scope="module")
def digits_found(digits):
    """Networks as they were initialised, on 300 images of 8 x 8 pixels."""
    x = digits.train.pixels[:300]
    return {
        name: {
            family: nz.critical_levels(initial_stack([3], name, inputs=64)[0], x, family=family)
            for family in FAMILIES
        }
        for name in ("abs", "relu")
    }


def lines_of(panel, colour):
    return [line for line in panel.get_lines() if line.get_color() == colour]


def test_curves_are_shares_of_examples(digits_found):
    figure = critical_figure(digits_found)
    panels = {panel.get_title(loc="left"): panel for panel in figure.axes}
    assert [name for name in panels if name] == list(FAMILIES)
    for family, one in (("shift", 0.0), ("scale", 1.0)):
        found = digits_found["relu"][family]
        dotted, below, above = lines_of(panels[family], "#AA3377")
        for side, line in (("below", below), ("above", above)):
            levels, share = line.get_data()
            critical = found.critical(side)
            for level, seen in list(zip(levels, share, strict=True))[::97]:
                gone = (critical >= level) if side == "below" else (critical <= level)
                assert seen == pytest.approx(100 * (1 - gone.mean()))
            assert one in levels
        levels, share = dotted.get_data()
        np.testing.assert_allclose(
            share[::97], [100 * np.mean(found.predict(p) == found.unperturbed) for p in levels[::97]]
        )
    assert len(lines_of(panels["clip"], "#009988")) == 2, "clip has one side"


def test_what_never_changes_is_said(digits_found):
    figure = critical_figure({"abs": digits_found["abs"]})
    words = {panel.get_title(loc="left"): panel.get_title(loc="right") for panel in figure.axes}
    found = digits_found["abs"]
    below, above = (100 * found["shift"].censored(side) / 300 for side in ("below", "above"))
    assert words["shift"] == f"never changes below | above\nAbs {below:.1f} % | {above:.1f} %"
    assert words["clip"] == f"never changes below\nAbs {100 * found['clip'].censored('below') / 300:.1f} %"


def test_nearly_all_isnt_all():
    """Of 3,000 examples one changes, above."""
    found = nz.CriticalLevels(
        family="shift",
        low=-1.0,
        high=1.0,
        identity=0.0,
        grid=0,
        conduct=nz.Conduct(),
        seed=0,
        first=np.array([*range(3000), 3001]),
        starts=np.array([-1.0] * 3000 + [0.5]),
        classes=np.array([0] * 3000 + [1], np.uint16),
        unperturbed=np.zeros(3000, np.uint16),
    )
    words = critical_figure({"relu": {"shift": found}}).axes[0].get_title(loc="right")
    assert words == "never changes below | above\nReLU 100.0 % | over 99.9 %"


def test_the_first_to_break_are_shown(digits_found, digits):
    found, x, y = digits_found["relu"], digits.train.pixels[:300], digits.train.labels[:300]
    figure = breaking_figure(found, x, y, count=4)
    assert len(figure.axes) == 5 * 4
    rows = [(family, side) for family in FAMILIES for side in found[family].sides]
    for place, (family, side) in enumerate(rows):
        each = found[family]
        for column, n in enumerate(each.first_to_break(4, side)):
            panel = figure.axes[4 * place + column]
            np.testing.assert_array_equal(panel.images[0].get_array(), x[n].reshape(8, 8))
            was, becomes = each.unperturbed[n], each.successor(side)[n]
            title = f"{was} → {becomes}" + ("" if was == y[n] else f" ({y[n]})")
            assert panel.get_title() == title
    assert figure_bytes(figure, "png")[:4] == b"\x89PNG"


def test_examples_that_are_no_images_are_named(digits_found, digits):
    found = {"shift": digits_found["abs"]["shift"]}
    figure = breaking_figure(found, digits.train.pixels[:300, :60], count=3)
    names = [f"{n:,}" for n in found["shift"].first_to_break(3, "below")]
    assert [figure.axes[column].texts[0].get_text() for column in range(3)] == names
    assert "(what it is" not in figure.get_supxlabel()
    assert not figure.axes[0].images


def test_refusals(digits_found):
    with pytest.raises(nz.InputError, match="no critical levels to draw"):
        critical_figure({})
    with pytest.raises(nz.InputError, match="no sides to draw"):
        breaking_figure({}, np.zeros((3, 64)))
    with pytest.raises(nz.InputError, match="must be those of the 300 examples of scale; got 3"):
        breaking_figure(digits_found["relu"], np.zeros((3, 64)))
