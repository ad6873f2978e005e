"""What a picture says that it draws: the same on any machine, and another for anything that a reader would see."""

from __future__ import annotations

import json
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from nearzero.report.figures.content import content_of, differences, drawn
from nearzero.report.figures.response import response_figure
from nearzero.report.figures.style import figure_bytes


def example(
    y: float = 3.0, *, colour: str = "#0077bb", marker: str = "o", label: str = "a", words: str = "t"
) -> Figure:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1, 2], [1, y, 5], color=colour, marker=marker, label=label)
    axes.fill_between([0, 1, 2], [0, 0, 0], [1, y, 1], color=colour)
    axes.bar([0, 1], [1, y], color=colour)
    axes.imshow([[0.0, y]])
    axes.set_title(words)
    axes.legend()
    return figure


def test_a_png_says_what_its_figure_draws() -> None:
    figure = example()
    assert content_of(figure_bytes(figure, "png")) == drawn(example())
    assert not differences(drawn(figure), drawn(example()))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"y": 3.001}, "panels 0 lines 0 y"),
        ({"colour": "#cc3311"}, "panels 0 lines 0 colour"),
        ({"marker": "s"}, "panels 0 lines 0 marker"),
        ({"label": "b"}, "panels 0 legend 0"),
        ({"words": "another"}, "panels 0 titles 1"),
    ],
)
def test_every_change_is_noticed(change: dict[str, object], place: str) -> None:
    found = differences(drawn(example()), drawn(example(**change)))  # type: ignore[arg-type]
    assert any(line.startswith(place) for line in found), found


def test_areas_bars_and_images_are_noticed_too() -> None:
    found = differences(drawn(example()), drawn(example(3.001)))
    places = {" ".join(line.split(":")[0].split()[2:3]) for line in found}
    assert places == {"lines", "areas", "patches", "images"}


def test_rounding_is_not_a_difference() -> None:
    assert not differences(drawn(example()), drawn(example(3.0 * (1 + 1e-12))))


def test_fonts_and_sizes_are_not_differences() -> None:
    with mpl.rc_context({"font.size": 20, "font.family": "DejaVu Serif"}):
        other = drawn(example())
    assert not differences(drawn(example()), other)


def test_it_stays_short(study_of: Callable[..., object]) -> None:
    """However many points a figure has."""
    content = drawn(response_figure(study_of(runs=3)))  # type: ignore[arg-type]
    assert len(content) < 20_000
    lines = json.loads(content)["panels"][0]["lines"]
    assert np.all([line["x"][0] > 5 for line in lines])


def test_other_pictures_say_nothing() -> None:
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.new("L", (2, 2)).save(buffer, "png")
    assert content_of(buffer.getvalue()) is None
