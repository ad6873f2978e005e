import re
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy import stats

from nearzero.paper.peaks import FIGURE_2, FIGURE_3, PeakUnit
from nearzero.paper.published import published
from nearzero.report.comparison import reproduction
from nearzero.report.figures import style
from nearzero.report.figures.agreement import agreement_figure
from nearzero.report.figures.peaks import activations_figure, offsets_figure
from nearzero.report.figures.response import response_figure
from nearzero.report.figures.style import (
    INK,
    LINE,
    PALE,
    ROLES,
    SHADE,
    add_notices,
    colours,
    figure_bytes,
    signed,
)
from nearzero.report.results import display_name


def line(axes: Axes, label: str):
    return next(line for line in axes.lines if line.get_label() == label)


def text_of(figure: Figure) -> str:
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    texts += [axes.get_title("left") for axes in figure.axes]
    return "\n".join([*texts, figure.get_suptitle()])


def runs_of(study, network: str, family: str):
    accuracy = study.response["accuracy"].sel(network=network, family=family, split="train")
    own = accuracy.dropna("level", how="all").transpose("level", "run")
    return own["level"].values, 100 * own.values


@pytest.mark.parametrize(("panel", "family"), [(0, "scale"), (0, "clip"), (1, "offset")])
@pytest.mark.parametrize("network", ["abs", "relu"])
def test_figure_1_draws_the_studys_means(study, panel: int, family: str, network: str) -> None:
    axes = response_figure(study).axes[panel]
    levels, runs = runs_of(study, network, family)
    drawn = line(axes, f"{network} {family}")
    np.testing.assert_allclose(drawn.get_xdata(), 100 * levels, rtol=1e-14)
    np.testing.assert_allclose(drawn.get_ydata(), runs.mean(-1), rtol=1e-12)
    assert drawn.is_dashed() is (family == "clip")
    assert to_hex(drawn.get_color()) == {"abs": "#009988", "relu": "#aa3377"}[network]
    markers = line(axes, f"{network} {family} published")
    expected = [
        (100 * row.level, row.networks[network].accuracy)
        for row in published().families[family]
        if row.level <= 1.2
    ]
    np.testing.assert_allclose(markers.get_xydata(), expected)
    assert markers.get_markerfacecolor() == "white"


def test_figure_1_has_bands_and_limits(study) -> None:
    left, right = response_figure(study).axes
    assert (left.get_xlim(), right.get_xlim()) == ((0, 120), (-200, 100))
    levels, runs = runs_of(study, "abs", "offset")
    low, high = stats.t.interval(0.95, 19, runs.mean(-1), np.maximum(stats.sem(runs, axis=-1), 1e-300))
    outline = right.collections[0].get_paths()[0].vertices
    for end in (low, high):
        for x, y in zip(100 * levels, end, strict=True):
            assert np.abs(outline - (x, y)).max(axis=1).min() < 1e-8


def test_figure_1_with_other_networks_and_runs_missing(study_of: Callable) -> None:
    study = study_of(runs=4, networks=("relu", "gelu", "tanh"), diverged={"gelu": (1,), "tanh": (0, 1, 2, 3)})
    left, right = response_figure(study).axes
    legend = left.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == [
        *("ReLU", "GELU (3 of 4 runs)", "tanh (0 of 4 runs)"),
        *("scale", "clip", "95 % interval", "published"),
    ]
    _, runs = runs_of(study, "gelu", "offset")
    np.testing.assert_allclose(line(right, "gelu offset").get_ydata(), runs[:, [0, 2, 3]].mean(-1))
    assert not any(drawn.get_label() == "gelu offset published" for drawn in right.lines)
    assert np.isnan(line(right, "tanh offset").get_ydata()).all()


def test_figure_1_says_what_was_not_swept(study_of: Callable) -> None:
    figure = response_figure(study_of(runs=1, families=("scale",), networks=("abs",)))
    assert "not swept" in text_of(figure)
    assert figure_bytes(figure, "png")


def test_colours_are_stable() -> None:
    assert colours(["relu", "abs"]) == {"relu": "#AA3377", "abs": "#009988"}
    many = [f"activation {k}" for k in range(8)]
    assert len(set(colours(many).values())) == 6
    assert colours(many)["activation 6"] == colours(many)["activation 0"]
    assert not {"#009988", "#AA3377"} & set(colours(many).values())


def density_lines(figure: Figure, number: int) -> tuple[Axes, Axes]:
    return figure.axes[2 * number], figure.axes[2 * number + 1]


@pytest.mark.parametrize(
    ("draw", "units"), [(activations_figure, FIGURE_2), (offsets_figure, FIGURE_3)], ids=["2", "3"]
)
def test_figures_2_and_3_draw_the_computed_densities(
    draw: Callable[[], Figure], units: tuple[PeakUnit, ...]
) -> None:
    figure = draw()
    assert len(figure.axes) == 2 * len(units)
    for number, unit in enumerate(units):
        before, after = density_lines(figure, number)
        z, density = before.lines[0].get_data()
        np.testing.assert_allclose(density, unit.peaks.densities(z).sum(0), atol=1e-14)
        a, density = after.lines[0].get_data()
        np.testing.assert_allclose(density, unit.densities(a).sum(0), atol=1e-14)
        assert set(before.lines[1].get_xdata()) == {unit.boundary}
        bars = sum(bar.get_height() for bar in after.patches)
        assert bars == pytest.approx(unit.masses_at_zero().sum(), abs=1e-3)
        assert sorted(text.get_text() for text in after.texts)[:5] == list("abcde")


def test_figures_2_and_3_label_boundary_level_and_mass() -> None:
    text = text_of(activations_figure())
    for word in ("boundary +0.5", "boundary 0", "ReLU, no offset (level 0)", "mass at zero 0.599"):
        assert word in text
    text = text_of(offsets_figure())
    for word in (
        "ReLU, offset +1 (level +28.6 %)",
        "boundary −0.5",
        "mass at zero 0.400",
        "ReLU, offset −1 (level −28.6 %)",
        "boundary +1.5",
        "mass at zero 0.601",
        "Abs, offset +1 (level +25 %)",
        "boundary −1",
        "no mass at zero",
    ):
        assert word in text
    assert [signed(x) for x in (-0.5, 0.0, 1.0, 28.571)] == ["−0.5", "0", "+1", "+28.6"]


def points(axes: Axes) -> np.ndarray:
    return np.array([drawn.get_xydata()[0] for drawn in axes.lines if len(drawn.get_xdata()) == 1])


def test_figure_4_draws_every_row(study) -> None:
    """In the panels of its own network, and with markers that no network has in other figures."""
    figure = agreement_figure(study)
    for network, above, below in zip(("abs", "relu"), figure.axes[:2], figure.axes[2:], strict=True):
        rows = [row for row in reproduction(study).comparisons if row.network == network]
        measured = points(above)
        assert measured.shape == (36 + 2, 2)
        np.testing.assert_allclose(measured[:36, 0], [row.published for row in rows])
        np.testing.assert_allclose(measured[:36, 1], [row.published + row.difference for row in rows])
        np.testing.assert_allclose(points(below)[:, 1], measured[:, 1] - measured[:, 0], atol=1e-12)
        assert above.get_title("left") == display_name(network)
        assert {line.get_marker() for line in above.lines} == {"None", "*", "s", "D", "v"}
    below = figure.axes[2]
    assert below.get_title("left") == "All networks: 72 of 72 within ±1.5 points (shaded) or ±3 s.e. (bars)"
    low, high = below.get_ylim()
    assert low == -high


def test_figure_4_fills_what_differs(study_of: Callable) -> None:
    study = study_of(shift=-1.6)
    figure = agreement_figure(study)
    filled = [line for axes in figure.axes[2:] for line in axes.lines if line.get_marker() != "None"]
    filled = [drawn for drawn in filled if drawn.get_markerfacecolor() != "none"]
    assert len(filled) == len(reproduction(study).differing) > 0
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert "outside both" in [text.get_text() for text in legend.get_texts()]


def test_figure_4_with_nothing_to_compare(study_of: Callable) -> None:
    figure = agreement_figure(study_of(runs=2, networks=("gelu",)))
    assert "nothing published to compare" in text_of(figure)
    assert points(figure.axes[0]).size == 0
    assert points(agreement_figure(study_of(runs=1)).axes[0]).shape == (38, 2)
    alone = agreement_figure(study_of(runs=2, networks=("relu",)))
    assert [axes.get_title("left") for axes in alone.axes[:1]] == ["ReLU"]
    assert len(alone.axes) == 2


def test_notices_are_drawn(study_of: Callable) -> None:
    study = study_of(runs=2, notices=("mnist-5k took the place of mnist", "a second one " * 20))
    for draw in (response_figure, agreement_figure):
        figure = draw(study)
        lines = figure.get_suptitle().splitlines()
        assert lines[0] == "Notice: mnist-5k took the place of mnist"
        assert len(lines) > 2
    assert response_figure(study_of(runs=2)).get_suptitle() == ""


def test_notices_are_above_a_legend_and_not_behind_it() -> None:
    figure = Figure(layout="constrained")
    figure.subplots().plot([0, 1], label="a")
    figure.legend(loc="outside upper center")
    add_notices(figure, ["2 of 10 runs diverged"])
    assert figure.get_suptitle() == ""
    assert figure.legends[0].get_title().get_text() == "Notice: 2 of 10 runs diverged"
    figure.draw_without_rendering()
    title, key = (
        text.get_window_extent() for text in (figure.legends[0].get_title(), figure.legends[0].get_texts()[0])
    )
    assert title.y0 >= key.y1 - 1


def test_bytes_depend_on_the_numbers_alone(study_of: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on the date, on what was drawn before, or on the user's own settings."""
    study = study_of(runs=3)
    first = figure_bytes(response_figure(study), "png"), figure_bytes(agreement_figure(study), "pdf")
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    with mpl.rc_context({"font.size": 30, "axes.grid": True, "pdf.fonttype": 3}):
        again = figure_bytes(response_figure(study), "png"), figure_bytes(agreement_figure(study), "pdf")
        assert mpl.rcParams["font.size"] == 30
    assert first == again
    assert b"CreationDate" not in first[1]
    assert figure_bytes(response_figure(study_of(runs=3, shift=0.5)), "png") != first[0]


def test_pdfs_carry_truetype_fonts_and_pngs_their_resolution() -> None:
    figure = activations_figure()
    pdf, png = figure_bytes(figure, "pdf"), figure_bytes(figure, "png")
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert int.from_bytes(png[16:20], "big") == 7 * 300


def test_a_colour_has_one_role() -> None:
    everywhere = [colour for colours_of_role in ROLES.values() for colour in colours_of_role]
    assert len(set(everywhere)) == len(everywhere)
    assert not {INK, PALE, LINE, SHADE} & set(everywhere)
    assert (ROLES["distance"], ROLES["intensity"]) == (("#0077BB",), ("#CC3311",)), (
        "as on the interactive page"
    )


def test_no_figure_has_a_colour_of_its_own() -> None:
    folder = Path(style.__file__).parent
    others = [path for path in folder.glob("*.py") if path.name != "style.py"]
    assert len(others) > 5
    own = {path.name: re.findall(r"#[0-9A-Fa-f]{6}", path.read_text(encoding="utf-8")) for path in others}
    assert not any(own.values()), own


def test_networks_differ_by_more_than_colour(study) -> None:
    figure = response_figure(study)
    for axes, families in zip(figure.axes, (("scale", "clip"), ("offset",)), strict=True):
        for family in families:
            shapes = {line(axes, f"{network} {family}").get_marker() for network in ("abs", "relu")}
            assert len(shapes) == 2


def test_what_departs_from_the_published_study_isnt_set_beside_it(study_of: Callable) -> None:
    departing = study_of(departures=("data = digits, not mnist",))
    labels = [drawn.get_label() for axes in response_figure(departing).axes for drawn in axes.lines]
    assert not any("published" in str(label) for label in labels)
    assert "data = digits, not mnist" in text_of(agreement_figure(departing))
    compared = [drawn.get_label() for axes in response_figure(study_of()).axes for drawn in axes.lines]
    assert any("published" in str(label) for label in compared)


def test_bands_of_accuracies_end_at_0_and_100(study_of: Callable) -> None:
    few = study_of(runs=2, shift=3.0)
    for axes in response_figure(few).axes:
        ends = np.concatenate([path.vertices[:, 1] for band in axes.collections for path in band.get_paths()])
        assert ends.min() >= 0.0
        assert ends.max() <= 100.0
