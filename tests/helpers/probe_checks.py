"""What the page of a probe must do in a browser: its numbers are those of the result."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Opened
from probes import Probed

import nearzero as nz
from nearzero.page.examples import choose_examples
from nearzero.report.figures.scales import metric_text

SHOWN = (0.0, 0.4, 1.0)  # places on the slider that are looked at, as shares


def metrics(result: nz.ProbeResult) -> list[str]:
    return [str(name) for name in result.response.attrs["metrics"]]


def levels_of(result: nz.ProbeResult, layer: int, family: int) -> np.ndarray:
    """Return the levels at which something was measured."""
    curve = result.response[metrics(result)[0]].isel(layer=layer, family=family)
    return np.asarray(curve.dropna("level").level.values)


def choose(held: Opened, metric: str, layer: int, family: int, place: int, key: str = "cell") -> None:
    """Choose a cell by the controls of one section."""
    page = held.page
    page.select_option(f"#{key}-metric", value=metric)
    page.select_option(f"#{key}-layer", index=layer)
    page.select_option(f"#{key}-family", index=family)
    page.evaluate(
        "([id, value]) => { const input = document.getElementById(id); input.value = value;"
        " input.dispatchEvent(new Event('input')); }",
        [f"{key}-level", str(place)],
    )
    held.settle()


def cells(result: nz.ProbeResult) -> Iterator[tuple[int, int, int, float]]:
    """Yield layer, family, place of the level among those measured, and level."""
    for layer in range(result.response.sizes["layer"]):
        for family in range(result.response.sizes["family"]):
            levels = levels_of(result, layer, family)
            for share in SHOWN:
                place = round(share * (len(levels) - 1))
                yield layer, family, place, float(levels[place])


def check_cells(held: Opened, probed: Probed) -> int:
    """Check value and interval at many cells, from the controls of every section; return how many."""
    result, count = probed.result, 0
    for metric in metrics(result):
        intervals = result.intervals(metric)
        for layer, family, place, level in cells(result):
            choose(held, metric, layer, family, place, ("cell", "curve", "item")[count % 3])
            where = {"layer": layer, "family": family}
            value = float(result.response[metric].isel(where).sel(level=level))
            data = held.page.evaluate("() => ({...document.getElementById('cell-outcome').dataset})")
            assert float(data["value"]) == value
            assert float(data["level"]) == level
            text = held.page.text_content("#cell-outcome").replace("\u00a0", " ").replace("−", "-")
            name = result.layers[layer]
            assert f"{result.response.family.values[family]} at" in text
            assert f"in layer {name}: {metric.replace('_', ' ').replace('kl', 'KL')}" in text
            ends = [float(intervals[end].isel(where).sel(level=level)) for end in ("low", "high")]
            numbers = [value, *ends]
            for number, shown in zip(numbers, _numbers(text), strict=False):
                factor = 100 if metric in ("accuracy", "agreement") else 1
                assert shown == pytest.approx(
                    factor * number, abs=0.00501 if factor == 100 else 1e-9, rel=6e-4
                )
            assert held.page.text_content("#cell-words") == held.page.text_content("#cell-outcome")
            count += 1
    return count


def _numbers(text: str) -> list[float]:
    """Return the value and its interval from the sentence on a cell."""
    strong = text.split(": ", 1)[1].split(";")[0]
    words = strong.replace("%", " ").replace("(", " ").replace(")", " ").split()
    found = []
    for word in words:
        try:
            found.append(float(word))
        except ValueError:
            continue
    return [found[0], *found[2:]]  # the second is the 95 of the interval


def table(held: Opened, place: str) -> list[list[str]]:
    """Return the cells of a table, by their full value where they have one."""
    return list(
        held.page.evaluate(
            "(place) => [...document.querySelectorAll(`${place} tbody tr`)]"
            ".map((row) => [...row.cells].map((cell) => cell.dataset.value ?? cell.textContent))",
            place,
        )
    )


def check_classes(held: Opened, probed: Probed) -> None:
    """Check the table of classes against `by_class`, at two cells."""
    result = probed.result
    metric = metrics(result)[0]
    by_class = result.by_class(metric)
    for layer, family, place, level in list(cells(result))[1:3]:
        choose(held, metric, layer, family, place)
        expected = by_class.isel(layer=layer, family=family).sel(level=level)
        rows = table(held, "#cell-classes")
        items = result.response.target.values
        assert [int(row[1]) for row in rows] == [
            int((items == each).sum()) for each in expected.target.values
        ]
        np.testing.assert_allclose([float(row[3]) for row in rows], expected.values, rtol=1e-6)
        names = probed.options.get("class_names") or list(map(str, expected.target.values))
        assert [row[0] for row in rows] == [
            names[int(each)] if "class_names" in probed.options else str(each)
            for each in expected.target.values
        ]
        plain = result.response[f"unperturbed_{metric}_items"].values.astype(float)
        np.testing.assert_allclose(
            [float(row[2]) for row in rows],
            [plain[items == each].mean() for each in expected.target.values],
            rtol=1e-6,
        )


def check_units(held: Opened, probed: Probed) -> None:
    """Check the units of every layer."""
    data = probed.result.response
    for layer, count in enumerate(data.units.values):
        held.page.select_option("#unit-layer", index=layer)
        held.settle()
        words = held.page.evaluate("() => ({...document.getElementById('layer-units-words').dataset})")
        assert words == {"units": str(count), "dead": str(int(data.dead_units.values[layer]))}
        rows = table(held, "#layer-units")
        assert len(rows) == count
        for column, name in ((2, "unit_minimum"), (3, "unit_maximum")):
            assert [float(row[column]) for row in rows] == data[name].values[layer, :count].tolist()


def check_items(held: Opened, probed: Probed) -> None:
    """Check the items of the page, and tokens or pictures, at one cell."""
    result, data, page = probed.result, probed.result.response, held.page
    metric = metrics(result)[0]
    layer, family, place, level = list(cells(result))[-1]
    choose(held, metric, layer, family, place, "item")
    values = data[f"{metric}_items"].isel(layer=layer, family=family).sel(level=level).values
    plain = data[f"unperturbed_{metric}_items"].values
    chosen = choose_examples(int(data.attrs["examples"]), 64)
    tokens = len(np.unique(data.sequence)) < data.sizes["item"]
    if tokens:
        page.select_option("#item-example", index=1)
        chosen = chosen[1:2]
    own = np.isin(data.sequence.values, chosen)
    rows = table(held, "#item-table")
    np.testing.assert_array_equal([np.float32(row[2]) for row in rows], plain[own])
    np.testing.assert_array_equal([np.float32(row[3]) for row in rows], values[own])
    worse = (values - plain)[own] * (1 if metric in ("cross_entropy", "kl_divergence") else -1)
    outcome = page.evaluate("() => ({...document.getElementById('item-outcome').dataset})")
    assert (int(outcome["worse"]), int(outcome["better"])) == (int((worse > 0).sum()), int((worse < 0).sum()))
    if tokens:
        _check_tokens(held, probed, int(chosen[0]), worse)
    elif "inputs" in probed.options:
        _check_pictures(held, probed, data.sequence.values[own], worse)


def _check_tokens(held: Opened, probed: Probed, example: int, worse: np.ndarray) -> None:
    """Every token is there with its own text, and coloured by its change."""
    ids = probed.options["inputs"][example].tolist()
    spans = held.page.locator("#item-text span")
    texts = spans.evaluate_all("(all) => all.map((each) => each.textContent)")
    decode = probed.options["decode"]
    assert [text.strip() for text in texts] == [decode([token]).replace("\n", "⏎").strip() for token in ids]
    kinds = spans.evaluate_all("(all) => all.map((each) => each.className)")
    assert kinds[0] == "outside"  # no logits predict the first token
    assert kinds[1:] == ["worse" if each > 0 else "better" if each < 0 else "same" for each in worse]


def _check_pictures(held: Opened, probed: Probed, examples: np.ndarray, worse: np.ndarray) -> None:
    """The first picture is the one of an example that got worse the most, pixel for pixel."""
    if not (worse > 0).any():
        assert held.page.text_content("#item-worse") == "None on the page."
        return
    first = int(examples[np.argmax(worse)])
    canvas = held.page.locator("#item-worse canvas").first
    assert canvas.get_attribute("aria-label").startswith(f"Example {first}")
    pixels = canvas.evaluate(
        "(canvas) => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
    )
    image = probed.options["inputs"][first]
    assert np.array_equal(np.array(pixels).reshape(*image.shape[:2], 4)[..., :3], image)


def check_map(held: Opened, probed: Probed) -> None:
    """Check that a click on the map chooses the cell below it, and that the map's values are saved."""
    result, page = probed.result, held.page
    metric = metrics(result)[0]
    choose(held, metric, 0, 0, 0)
    layers = result.response.sizes["layer"]
    image = page.locator("[data-map='1'] image")
    page.locator("[data-map='1']").scroll_into_view_if_needed()
    box = image.bounding_box()
    columns = np.unique(np.concatenate([levels_of(result, layer, 1) for layer in range(layers)]))
    column = len(columns) // 2
    page.mouse.move(
        box["x"] + box["width"] * (column + 0.5) / len(columns),
        box["y"] + box["height"] * (layers - 0.5) / layers,
    )
    held.settle()
    value = float(result.response[metric].isel(layer=layers - 1, family=1).sel(level=columns[column]))
    tip = page.text_content("#tooltip").replace("\u00a0", " ").replace("−", "-")
    assert result.layers[-1] in tip
    if metric in ("accuracy", "agreement"):
        assert tip.endswith(metric_text(metric, value))
    page.mouse.down()
    page.mouse.up()
    held.settle()
    data = page.evaluate("() => ({...document.getElementById('cell-outcome').dataset})")
    assert (float(data["value"]), float(data["level"])) == (value, columns[column])
    assert page.input_value("#cell-layer") == str(layers - 1)
    rows = saved_rows(held, "[data-map='1'] button:text-is('CSV')")
    expected = result.response[metric].isel(family=1).to_series().dropna()
    assert [float(row[3]) for row in rows[1:]] == expected.tolist()
    assert rows[0] == ["layer", "family", "level", metric]


def saved(held: Opened, button: str) -> bytes:
    """Return the file that a button saves."""
    with held.page.expect_download() as waiting:
        held.page.locator(button).first.click()
    return Path(waiting.value.path()).read_bytes()


def saved_rows(held: Opened, button: str) -> list[list[str]]:
    """Return the rows of the CSV file that a button saves."""
    return list(csv.reader(io.StringIO(saved(held, button).decode())))


def check_downloads(held: Opened, probed: Probed) -> None:
    """Check that maps, curves and units are saved as PNG, SVG and CSV, with the numbers of the result."""
    result = probed.result
    metric = metrics(result)[0]
    choose(held, metric, 0, 1, 1)
    curve = "#cell figure.chart:not([hidden])"
    held.page.locator(curve).scroll_into_view_if_needed()
    held.page.wait_for_selector(f"{curve} .plot svg")
    places = {
        "[data-map='0'] button:text-is('{}')": str.upper,
        f"{curve} [data-do={{}}]": str,
        "[data-of=layer-units-plot][data-probe-save={}]": str,
    }
    for place, spelling in places.items():
        assert saved(held, place.format(spelling("png"))).startswith(b"\x89PNG")
        assert saved(held, place.format(spelling("svg"))).startswith(b"<svg")
        assert len(saved_rows(held, place.format(spelling("csv")))) > 2
    rows = saved_rows(held, f"{curve} [data-do=csv]")
    family = str(result.response.family.values[1])
    drawn = [float(row[2]) for row in rows if row[0] == family and row[-1] == "measured"]
    factor = 100 if metric in ("accuracy", "agreement") else 1
    expected = factor * result.response[metric].isel(layer=0, family=1).dropna("level").values
    assert drawn == expected.tolist()
    assert [row[-1] for row in rows].count("chosen") == 1


def check_sorting(held: Opened, probed: Probed) -> None:
    """Check that tables made by Python and by the script sort by a column, up and down."""
    held.page.locator("#units details").evaluate("(each) => { each.open = true; }")
    for place in ("#layer-units", "#item-table", "#assumed .scroll", "#cell-classes"):
        for direction in ("ascending", "descending"):
            head = held.page.locator(f"{place} thead th").nth(2)
            head.locator("button").click()
            assert head.get_attribute("aria-sort") == direction
            keys = [row[2] for row in table(held, place)]
            values = [float(key) for key in keys] if place != "#assumed .scroll" else keys
            if place != "#assumed .scroll":
                assert values == sorted(values, reverse=direction == "descending"), place
            else:
                assert len(set(values)) > 1


def check_keyboard(held: Opened, probed: Probed) -> None:
    """Check that every control is reached by Tab alone, and that an arrow steps to the next measured level."""
    page, result = held.page, probed.result
    choose(held, metrics(result)[0], 0, 1, 2)
    page.evaluate("() => { document.body.tabIndex = -1; document.body.focus(); scrollTo(0, 0); }")
    reached: set[str] = set()
    for _ in range(300):
        page.keyboard.press("Tab")
        name = str(page.evaluate("() => document.activeElement.id"))
        if name == "command":
            break
        reached.add(name)
    kinds = ("metric", "layer", "family", "level")
    assert {f"{key}-{kind}" for key in ("cell", "curve", "item") for kind in kinds} | {
        "unit-layer"
    } <= reached
    levels = levels_of(result, 0, 1)
    page.focus("#curve-level")
    page.keyboard.press("ArrowRight")
    held.settle()
    assert float(page.get_attribute("#cell-outcome", "data-level")) == levels[3]
    assert page.input_value("#cell-level") == page.input_value("#item-level") == "3"
    page.keyboard.press("Home")
    held.settle()
    assert float(page.get_attribute("#cell-outcome", "data-level")) == levels[0]
    page.focus("#cell-family")
    page.keyboard.press("ArrowDown")
    held.settle()
    assert page.input_value("#curve-family") == "2"


CHECKS: tuple[Any, ...] = (
    check_cells,
    check_classes,
    check_units,
    check_items,
    check_map,
    check_downloads,
    check_sorting,
    check_keyboard,
)
