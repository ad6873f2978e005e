"""What a result holds beyond curves: unit ranges, classes, intervals over examples, metrics with the plain output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.colors import to_rgb
from scipy import stats
from torch import Tensor, nn

import nearzero as nz
from nearzero.statistics import bootstrap
from nearzero.statistics.bootstrap import bootstrap_items
from nearzero.support.netcdf import load_netcdf, netcdf_content


@pytest.fixture
def case() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    return (
        nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 3)),
        torch.randn(60, 5),
        torch.randint(3, (60,)),
    )


def perturbed(model: nn.Module, x: Tensor, scale: float) -> Tensor:
    with torch.no_grad():
        return model[1:](scale * model[0](x))  # type: ignore[index]


@pytest.mark.parametrize("backend", ["two-layer", "model"])
def test_items_have_their_classes_and_ranges_their_units(case: tuple, backend: str) -> None:  # type: ignore[type-arg]
    model, x, y = case
    found = nz.probe(model, (x, y), "1", families="scale", levels=[0.2], keep_items=True, backend=backend)
    assert found.response.target.values.tolist() == y.tolist()
    right = (perturbed(model, x, 0.2).argmax(1) == y).double()
    by_class = found.by_class().squeeze()
    assert by_class.target.values.tolist() == [0, 1, 2]
    assert by_class.values.tolist() == pytest.approx([float(right[y == k].mean()) for k in range(3)])
    z = model[0](x).detach()
    np.testing.assert_allclose(found.response.unit_minimum.squeeze(), z.amin(0), rtol=1e-5)
    np.testing.assert_allclose(found.response.unit_maximum.squeeze(), z.amax(0), rtol=1e-5)


def test_ranges_of_layers_of_other_widths_end_in_nan(case: tuple) -> None:  # type: ignore[type-arg]
    model, x, y = case
    found = nz.probe(model, (x, y), ["1", "2"], families="scale", levels=[0.2]).response
    assert found.unit_minimum.isel(layer=1).notnull().sum() == 3
    assert found.unit_minimum.isel(layer=0).notnull().sum() == 8


def test_intervals_over_examples_are_those_of_scipy(case: tuple) -> None:  # type: ignore[type-arg]
    model, x, y = case
    found = nz.probe(
        model, (x, y), "1", families="scale", levels=[0.2, 3.0], metrics="cross_entropy", keep_items=True
    )
    interval = found.intervals(resamples=20_000)
    for level in (0.2, 3.0):
        values = found.response.cross_entropy_items.sel(level=level).squeeze().values
        expected = stats.bootstrap(
            (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(5)
        ).confidence_interval
        ends = interval.sel(level=level).squeeze()
        spread = float(expected.high - expected.low)
        assert float(ends.low) == pytest.approx(float(expected.low), abs=0.03 * spread)
        assert float(ends.high) == pytest.approx(float(expected.high), abs=0.03 * spread)
    assert interval.attrs["metric"] == "cross_entropy"


def test_all_items_of_an_example_are_resampled_together() -> None:
    """By hand: two examples, one with two items; the means of resamples are those of three pairs of examples."""
    values, owners = np.array([[1.0, 2.0, 6.0]]), np.array([0, 0, 1])
    low, high = bootstrap_items(values, owners, np.random.default_rng(0), confidence=0.999)
    assert (low.item(), high.item()) == (1.5, 6.0)
    low, high = bootstrap_items(values, owners, np.random.default_rng(0), confidence=0.4)
    assert (low.item(), high.item()) == (3.0, 3.0)  # both once: (1 + 2 + 6) / 3, in half of the resamples


def test_intervals_cover_the_mean() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        values = rng.exponential(size=(1, 80))
        low, high = bootstrap_items(values, np.arange(80), rng, resamples=400)
        covered += bool(low[0] <= 1.0 <= high[0])
    assert (
        0.90 <= covered / 400 <= 0.97
    )  # a percentile interval of a skewed mean covers a little less than 95 %


def test_a_metric_of_three_arguments_gets_the_unperturbed_output(case: tuple) -> None:  # type: ignore[type-arg]
    model, x, y = case

    def moved(logits: Tensor, target: Tensor | None, unperturbed: Tensor) -> Tensor:
        return (logits - unperturbed).norm(dim=1)

    found = nz.probe(model, (x, y), "1", families="scale", levels=[0.2], metrics=[moved], backend="model")
    expected = (perturbed(model, x, 0.2) - perturbed(model, x, 1.0)).norm(dim=1).mean()
    assert float(found.response.moved.squeeze()) == pytest.approx(float(expected), rel=1e-5)
    assert float(found.response.unperturbed_moved) == 0.0

    def halved(logits: Tensor, target: Tensor, factor: float = 0.5) -> Tensor:  # two arguments, and an option
        return factor * logits[:, 0]

    plain = nz.probe(model, (x, y), "1", families="scale", levels=[0.2], metrics=[halved]).response
    assert float(plain.halved.squeeze()) == pytest.approx(
        0.5 * float(perturbed(model, x, 0.2)[:, 0].mean()), rel=1e-5
    )


def test_what_wasnt_kept_is_refused(case: tuple) -> None:  # type: ignore[type-arg]
    model, x, y = case
    plain = nz.probe(model, (x, y), "1", families="scale", levels=[0.2])
    for call in (plain.intervals, plain.by_class):
        with pytest.raises(nz.InputError, match="probe with keep_items=True"):
            call()
    with pytest.raises(nz.InputError, match="'acuracy' wasn't measured: did you mean 'accuracy'"):
        plain.intervals("acuracy")
    kept = nz.probe(model, [x], "1", families="scale", levels=[0.2], keep_items=True)
    with pytest.raises(nz.InputError, match="the items have no classes"):
        kept.by_class()
    with pytest.raises(nz.InputError, match="at least 100; it was 10"):
        kept.intervals(resamples=10)


@pytest.mark.parametrize("name", ["rows", "partial", "unit_minimum", "reason"])
def test_a_metric_cant_have_a_name_of_the_results_own(case: tuple, name: str) -> None:  # type: ignore[type-arg]
    model, x, y = case
    with pytest.raises(nz.InputError, match="since the result uses this name already"):
        nz.probe(model, (x, y), metrics={name: lambda logits, target: logits[:, 0]})


def test_a_saved_result_keeps_classes_and_ranges(case: tuple, tmp_path) -> None:  # type: ignore[type-arg,no-untyped-def]
    model, x, y = case
    found = nz.probe(model, (x, y), "1", families="scale", levels=[0.2], keep_items=True)
    again = nz.ProbeResult.open(found.save(tmp_path / "kept"))
    assert again.by_class().identical(found.by_class())
    assert again.intervals().identical(found.intervals())


def test_lines_have_bands_where_items_are_kept_and_marks_where_conducts_differ() -> None:
    """Read the figure: a line for each layer in each panel with the measured values, and its band."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3))
    data = torch.randn(60, 5), torch.randint(3, (60,))
    found = nz.probe(model, data, ["1", "3"], families=["scale", "shift"], levels=5, keep_items=True)
    figure = found.plot_lines("accuracy")
    panels = figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == ["scale (intensity)", "shift (distance)"]
    for axes, family in zip(panels, ("scale", "shift"), strict=True):
        for line, layer in zip(axes.lines, ("1", "3"), strict=False):
            curve = found.response.accuracy.sel(layer=layer, family=family).dropna("level")
            assert np.asarray(line.get_xdata()).tolist() == curve.level.values.tolist()
            np.testing.assert_allclose(line.get_ydata(), 100 * curve.values)
        bands = axes.collections
        ends = found.intervals("accuracy").sel(layer="1", family=family, level=curve.level)
        assert bands[0].get_paths()[0].vertices[:, 1].max() == pytest.approx(100 * float(ends.high.max()))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [name.split()[0] for name in names] == ["1", "3"]
    assert names[0] != names[1].replace("3", "1")  # one of them has a mark
    caption = figure.get_suptitle()
    assert "can't be compared, except under scale" in caption.replace("\n", " ")
    assert "Bands: 95 % intervals over examples." in caption
    plain = nz.probe(model, data, ["1"], families="scale", levels=5).plot_lines()
    assert not plain.axes[0].collections
    assert "Bands" not in plain.get_suptitle()


def test_lines_of_many_layers_are_told_apart_without_colours() -> None:
    """Each has a marker and dashes of its own, and is darker than the layer before."""
    torch.manual_seed(0)
    layers = [module for _ in range(12) for module in (nn.Linear(4, 4), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(4, 3))
    found = nz.probe(model, torch.randn(20, 4), families="scale", levels=12)
    (axes,) = found.plot_lines().axes
    lines = axes.lines[:12]
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == 12
    assert not {line.get_marker() for line in lines} & {"None", "", None}
    lightness = [sum(to_rgb(line.get_color())) for line in lines]
    assert lightness == sorted(set(lightness), reverse=True)


def test_a_value_that_is_nan_is_nan_in_its_class_and_interval(case: tuple) -> None:  # type: ignore[type-arg]
    model, x, y = case

    def holed(logits: Tensor, target: Tensor) -> Tensor:
        return torch.where(torch.arange(len(logits)) == 0, torch.nan, logits[:, 0])

    found = nz.probe(model, (x, y), "1", families="scale", levels=[0.2], metrics=[holed], keep_items=True)
    missing = [int(y[0]) == k for k in range(3)]
    assert np.isnan(found.by_class().squeeze().values).tolist() == missing
    assert found.intervals().low.isnull().all()
    assert found.plot_lines().axes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed must be a whole number from 0; got -1"),
        ({"seed": "a"}, "seed must be a whole number from 0; got 'a'"),
        ({"resamples": "2"}, "resamples must be a whole number from 0; got '2'"),
        ({"confidence": 1.5}, "confidence"),
    ],
)
def test_settings_of_intervals_that_cant_be(case: tuple, options: dict, message: str) -> None:  # type: ignore[type-arg]
    model, x, y = case
    found = nz.probe(model, (x, y), "1", families="scale", levels=[0.2], keep_items=True)
    with pytest.raises(nz.InputError, match=message):
        found.intervals(**options)


def test_complex_metrics_are_refused(case: tuple) -> None:  # type: ignore[type-arg]
    model, x, y = case
    with pytest.raises(nz.InputError, match=r"'turned' must return real numbers; got torch\.complex64"):
        nz.probe(model, (x, y), "1", levels=2, metrics={"turned": lambda logits, target: logits[:, 0] * 1j})


def test_a_function_with_the_name_of_a_known_metric_isnt_the_metric(case: tuple) -> None:  # type: ignore[type-arg]
    model, x, y = case

    def agreement(logits: Tensor, target: Tensor) -> Tensor:
        return logits[:, 0]

    for metrics in ([agreement, "agreement"], ["agreement", agreement]):
        with pytest.raises(nz.InputError, match="two metrics are called 'agreement'"):
            nz.probe(model, (x, y), "1", levels=2, metrics=metrics)


@pytest.mark.parametrize(
    "change", ["assumptions", "versions", "metrics", "dead_units", "unperturbed_accuracy"]
)
def test_a_saved_result_that_was_changed_is_refused(case: tuple, tmp_path: Path, change: str) -> None:  # type: ignore[type-arg]
    model, x, y = case
    folder = nz.probe(model, (x, y), "1", levels=2, metrics="accuracy").save(tmp_path / "probe")
    response = xr.open_dataset(folder / "probe.nc", engine="h5netcdf").load()
    if change in response:
        response = response.drop_vars(change)
    else:
        response.attrs[change] = "["
    response.close()
    (folder / "probe.nc").write_bytes(bytes(response.to_netcdf(engine="h5netcdf")))
    with pytest.raises(nz.InputError, match=r"probe\.nc can't be read \(.*\); probe again"):
        nz.ProbeResult.open(folder)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"items": 10**12}, "it says 1,000,000,000,000 items, and has 60"),
        ({"examples": 59}, "an item is of an example beyond the 59 examples"),
        ({"items": -1}, "items must be whole numbers from 0"),
        ({"items": 60.5}, "items must be whole numbers from 0"),
        ({"units": 10**9}, "a layer has 1,000,000,000 units, and ranges of 8"),
        ({"units": -1}, "units must be whole numbers from 0"),
        ({"dead_units": 9}, "there are more dead units than units"),
        ({"rows": -5}, "rows must be whole numbers from 0"),
        ({"token": -1}, "token must be whole numbers from 0"),
        ({"sequence": 10**12}, "an item is of an example beyond the 60 examples"),
        ({"not_finite": 61.0}, "logits of more than 60 items aren't finite"),
        ({"metrics": ["accuracy", "accuracy"]}, "a metric is named twice"),
    ],
)
def test_counts_that_do_not_agree_with_the_arrays(  # type: ignore[type-arg]
    case: tuple, change: dict[str, Any], why: str, tmp_path: Path
) -> None:
    model, x, y = case
    folder = nz.probe(model, (x, y), "1", levels=2, metrics="accuracy", keep_items=True).save(tmp_path)
    response = load_netcdf((folder / "probe.nc").read_bytes(), "", "").to_dataset()
    (name, value), *_ = change.items()
    if name in response.attrs:
        response.attrs[name] = value
    else:
        like = response.get(name, response.accuracy)
        response[name] = xr.full_like(like, value, type(value))
    (folder / "probe.nc").write_bytes(netcdf_content(response))
    with pytest.raises(nz.InputError, match=rf"probe\.nc can't be read \(.*{why}\); probe again"):
        nz.ProbeResult.open(folder)


def test_intervals_of_many_levels_are_those_of_each_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their resamples are held for some levels at a time, and are the same for all."""
    values, owners = np.random.default_rng(0).normal(size=(7, 30)), np.arange(30) // 2
    whole = bootstrap_items(values, owners, np.random.default_rng(1), resamples=200)
    monkeypatch.setattr("nearzero.statistics.bootstrap.MEANS", 2 * 200)
    at_a_time = []
    resampled = bootstrap._resampled_means

    def spy(totals: Any, *given: Any) -> Any:
        at_a_time.append(totals.shape[1])
        return resampled(totals, *given)

    monkeypatch.setattr(bootstrap, "_resampled_means", spy)
    np.testing.assert_allclose(
        bootstrap_items(values, owners, np.random.default_rng(1), resamples=200), whole
    )
    assert at_a_time == [2, 2, 2, 1]


def test_more_families_than_a_result_can_have(case: tuple) -> None:  # type: ignore[type-arg]
    model, x, y = case
    families = {f"family {number}": nz.Perturbation(scale=1.0) for number in range(65)}
    with pytest.raises(
        nz.InputError, match="this would give 65 labels on the dimension family; a result has at most"
    ):
        nz.probe(model, (x, y), "1", families=families)
