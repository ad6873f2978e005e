"""The map of layers against families: what is drawn is what was measured, and it can be read."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import nearzero as nz
from nearzero.report.figures.layers import layer_map

FAMILIES = ("offset", "scale", "clip")


def responses(
    layers: list[str],
    families: tuple[str, ...] = FAMILIES,
    metric: str = "accuracy",
    *,
    offset: str = "shift",
) -> xr.Dataset:
    """Values that are all different, at every fourth of each family's own levels, in the form a probe gives."""
    generator = np.random.default_rng(0)
    grids = {name: nz.make_family(name, nz.Conduct(offset=offset)).levels[::4] for name in families}
    axis = np.unique(np.concatenate([*grids.values()]))
    values = np.full((len(layers), len(families), len(axis)), np.nan)
    for number, grid in enumerate(grids.values()):
        shape = (len(layers), len(grid))
        values[:, number, np.searchsorted(axis, grid)] = generator.permutation(np.prod(shape)).reshape(shape)
    values /= np.nanmax(values)
    return xr.Dataset(
        {
            metric: (("layer", "family", "level"), values),
            f"unperturbed_{metric}": 0.93,
            "offset": ("layer", [offset] * len(layers)),
        },
        {"layer": layers, "family": list(families), "level": axis},
        {"model": "Net", "metrics": [metric], "examples": 100, "items": 1234},
    )


def names(count: int) -> list[str]:
    return [f"encoder.layers.{number}.mlp.act" for number in range(count)]


def panels(figure: Figure) -> list[Axes]:
    """Those of the families; the last axes are of the bar."""
    return figure.axes[:-1]


def drawn(figure: Figure) -> FigureCanvasAgg:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas


def test_each_panel_holds_its_familys_values() -> None:
    data = responses(names(5))
    figure = layer_map(data, "accuracy")
    assert len(panels(figure)) == 3
    for axes, family in zip(panels(figure), FAMILIES, strict=True):
        measured = data.accuracy.sel(family=family).dropna("level", how="all")
        mesh = axes.collections[0]
        np.testing.assert_allclose(mesh.get_array(), 100 * measured.values)
        edges = mesh.get_coordinates()[0, :, 0]
        assert (edges[:-1] < measured.level.values).all()
        assert (measured.level.values < edges[1:]).all()
        assert axes.get_title("left").startswith(family)
        assert mesh.get_clim() == (0, 100)
    assert [label.get_text() for label in panels(figure)[0].get_yticklabels()] == names(5)
    top, bottom = panels(figure)[0].get_ylim()[::-1]
    assert top < bottom  # the first layer is on top


def test_the_line_is_where_nothing_changes() -> None:
    families = ("offset", "scale", "clip", "gains")
    at = [
        [line.get_xdata()[0] for line in axes.lines]
        for axes in panels(layer_map(responses(names(2), families), "accuracy"))
    ]
    assert at == [[0], [1], [], [0]]
    written = layer_map(responses(names(2), families, offset="as-written"), "accuracy")
    assert [len(axes.lines) for axes in panels(written)] == [0, 1, 0, 1]
    assert "Dashed" not in layer_map(responses(names(2), ("clip",)), "accuracy").get_suptitle()


def test_the_caption_says_what_is_drawn() -> None:
    caption = layer_map(responses(names(2)), "accuracy").get_suptitle()
    for words in ("Accuracy of Net", "1,234 items of 100 examples", "Unperturbed: 93 %", "Dashed"):
        assert words in caption
    data = responses(names(2), metric="kl_divergence").assign_attrs(items=100)
    figure = layer_map(data, "kl_divergence")
    assert figure.get_suptitle().startswith(
        "KL divergence of Net, one layer perturbed at a time, on 100 examples."
    )
    assert figure.axes[-1].get_ylabel() == "KL divergence (nats)"


def test_dark_is_harm_for_shares_and_losses() -> None:
    def luminance(metric: str) -> np.ndarray:
        mesh = panels(layer_map(responses(names(1), ("scale",), metric), metric))[0].collections[0]
        mesh.update_scalarmappable()
        return mesh.get_facecolor()[:, :3] @ [0.2126, 0.7152, 0.0722]

    order = responses(names(1), ("scale",)).accuracy.values.ravel().argsort()
    assert (np.diff(luminance("accuracy")[order]) > -1e-3).all()
    assert (np.diff(luminance("cross_entropy")[order]) < 1e-3).all()


@pytest.mark.parametrize(("layers", "count"), [(1, 1), (4, 9), (60, 4), (150, 3)])
def test_nothing_meets_whatever_the_number_of_layers_and_families(layers: int, count: int) -> None:
    families = tuple(nz.FAMILIES)[:count]
    figure = layer_map(responses(names(layers), families), "accuracy")
    canvas = drawn(figure)
    page = figure.get_window_extent()
    boxes = [axes.get_tightbbox(canvas.get_renderer()) for axes in panels(figure)]
    for number, box in enumerate(boxes):
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert page.y0 - 1 <= box.y0
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
        assert box.y1 <= figure._suptitle.get_window_extent().y0  # type: ignore[attr-defined]
    shown = [label.get_window_extent() for label in panels(figure)[0].get_yticklabels()]
    assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(shown))
    assert figure.get_figheight() <= 11


def test_one_level_missing_values_and_long_names_are_drawn() -> None:
    data = responses(["a" * 60, "b.c"], ("scale",)).isel(level=[3])
    data.accuracy[0] = np.nan
    figure = layer_map(data, "accuracy")
    drawn(figure)
    assert panels(figure)[0].collections[0].get_array().mask.ravel().tolist() == [True, False]
    assert max(len(label.get_text()) for label in panels(figure)[0].get_yticklabels()) <= 34
