"""What a study's page must do in a browser: the same checks for a small page in the gate and for others at length."""

from __future__ import annotations

import csv
import io
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from browser import Opened

import nearzero as nz
from nearzero.page.examples import choose_examples

INFINITY = float("inf")
# scale, offset in unit ranges, clip in unit ranges, and whether all units are perturbed
SETTINGS = (
    (1.0, 0.0, INFINITY, True),
    (0.3, 0.0, INFINITY, True),
    (2.5, -0.05, INFINITY, True),
    (1.0, 0.1, INFINITY, True),
    (1.0, -0.25, 0.5, True),
    (1.0, 0.0, 0.2, True),
    (-0.5, 0.03, 0.35, True),
    (0.0, 0.4, INFINITY, False),
    (1.0, -1.0, INFINITY, False),
    (3.0, 0.2, 0.1, False),
)
TIE = 1e-5  # of the greatest logit


@dataclass(frozen=True)
class PageNetwork:
    """A network of a page, as Python has it."""

    key: str
    network: nz.TwoLayer
    ranges: nz.Ranges
    layer: nz.HiddenLayer
    labels: np.ndarray
    conduct: nz.Conduct

    def perturbed(
        self, scale: float, offset: float, clip: float, unit: int | None
    ) -> tuple[nz.HiddenLayer, nz.Perturbation]:
        """Return a layer and its perturbation, of a unit or of all, by nearzero's own families.

        A clip of activations acts after scale and offset, so these are put into the layer's z.
        """
        units, live = self.network.units, self.ranges.live
        chosen = live & (np.ones(units, bool) if unit is None else np.arange(units) == unit)
        shift = nz.Shift(range=self.conduct.range).at(offset, self.ranges)
        bound = nz.make_family("clip", self.conduct).at(clip, self.ranges)
        above = np.where(chosen, bound.clip, np.inf)
        line = {"scale": np.where(chosen, scale, 1.0), "offset": np.where(chosen, shift.offset, 0.0)}
        if bound.side == "pre":
            return self.layer, nz.Perturbation(**line, clip=above)
        moved = self.layer.with_z(nz.Perturbation(**line)(self.layer.z))
        return moved, nz.Perturbation(clip=above, side="post")

    def confusion(self, layer: nz.HiddenLayer, perturbation: nz.Perturbation) -> np.ndarray:
        """Return the confusion matrix, (labels, predictions), of float32 predictions."""
        classes = self.network.classes
        predictions = layer.predict([perturbation])[0]
        return np.bincount(classes * self.labels + predictions, minlength=classes**2).reshape(
            classes, classes
        )

    def ties(self, layer: nz.HiddenLayer, perturbation: nz.Perturbation) -> int:
        """Return the number of examples whose two greatest logits nearly agree, computed in plain NumPy."""
        act, post = self.network.act, perturbation.side == "post"
        a = perturbation(act(layer.z)) if post else act(perturbation(layer.z))
        logits = a.astype(np.float64) @ self.network.w2.T.astype(np.float64) + self.network.b2
        greatest = np.sort(logits, axis=1)[:, -2:]
        sizes = np.abs(logits).max(axis=1)
        return int((greatest[:, 1] - greatest[:, 0] < TIE * sizes).sum())


def page_network(study: nz.Study, data: nz.datasets.Dataset, name: str, run: int = 0) -> PageNetwork:
    """Return a network of a study's page, from the study's files."""
    raw = study.spec.pixels == "raw"
    gain, shift = (1.0, 0.0) if raw else (1 / (data.white * data.std), -data.mean / data.std)
    indices = choose_examples(len(data.test))
    network = study.network(name, run)
    return PageNetwork(
        key=f"{name}-{run:02d}",
        network=network,
        ranges=nz.unit_ranges(network, nz.Pixels(data.train.pixels, gain, shift)),
        layer=nz.HiddenLayer(network, nz.Pixels(data.test.pixels[indices], gain, shift)),
        labels=data.test.labels[indices],
        conduct=study.spec.conduct,
    )


def check_settings(held: Opened, networks: list[PageNetwork]) -> list[str]:
    """Check accuracy and confusion matrix at ten settings of each network; return a line for each.

    Every example that isn't nearly tied must count as in Python.
    """
    page, lines = held.page, []
    for each in networks:
        page.select_option("#unit-network", each.key)
        unit = int(np.flatnonzero(each.ranges.live)[len(each.ranges.live) // 3])
        held.page.fill("#unit-number", str(unit))
        page.dispatch_event("#unit-number", "change")
        for scale, offset, clip, everything in SETTINGS:
            page.check(f"[name=scope][value={'all' if everything else 'one'}]")
            page.click("#unit-reset")
            held.set_number("unit-scale-number", scale)
            held.set_number("unit-offset-number", offset)
            if clip < INFINITY:
                held.set_number("unit-clip-number", clip)
            perturbed = each.perturbed(scale, offset, clip, None if everything else unit)
            expected, found = each.confusion(*perturbed), held.confusion()
            ties, counts = each.ties(*perturbed), held.outcome()
            setting = f"{each.key}: scale {scale}, offset {offset}, clip {clip}, all {everything}"
            moved = int(np.abs(found - expected).sum()) // 2
            assert moved <= ties, f"{setting}: {moved} predictions differ, and {ties} are near ties"
            assert counts["right"] == np.trace(found), setting
            assert abs(counts["right"] - np.trace(expected)) <= ties, setting
            assert counts["ties"] <= ties + 1, setting
            lines.append(f"{setting}: right {counts['right']}, near ties {ties}, differing {moved}")
    return lines


def check_study_offset(held: Opened, networks: list[PageNetwork]) -> None:
    """Check that the explorer's offset "as the study's" gives what the family gives in Python and in the examples."""
    page = held.page
    for each in networks:
        page.select_option("#unit-network", each.key)
        page.select_option("#example-network", each.key)
        page.select_option("#example-family", "offset")
        page.check("[name=scope][value=all]")
        page.click("#unit-reset")
        page.check("[name=offset-as][value=offset]")
        assert "offset" in page.text_content("#unit-equation")
        for level in (-0.5, -0.1, 0.05, 0.3):
            held.set_number("unit-offset-number", level)
            held.set_number("example-level-number", level)
            perturbation = nz.make_family("offset", each.conduct).at(level, each.ranges)
            expected, found = each.confusion(each.layer, perturbation), held.confusion()
            ties = each.ties(each.layer, perturbation)
            played = page.evaluate("() => ({...document.getElementById('example-outcome').dataset})")
            shown = held.outcome()
            assert int(np.abs(found - expected).sum()) // 2 <= ties, (each.key, level)
            assert abs(shown["right"] - int(played["right"])) <= ties, (each.key, level)
            assert abs(shown["changed"] - int(played["changed"])) <= ties, (each.key, level)
        page.check("[name=offset-as][value=shift]")
        held.set_number("unit-offset-number", -0.1)
        shift = nz.Shift(range=each.conduct.range).at(-0.1, each.ranges)
        moved = int(np.abs(held.confusion() - each.confusion(each.layer, shift)).sum()) // 2
        assert moved <= each.ties(each.layer, shift), each.key
        page.click("#unit-reset")


def check_infinite(held: Opened) -> None:
    """Check that logits beyond float32 are counted, and never taken for a prediction."""
    held.page.check("[name=scope][value=all]")
    held.page.click("#unit-reset")
    held.set_number("unit-scale-number", 1e38)
    counts = held.outcome()
    assert counts["lost"] > 0
    assert held.confusion().sum() + counts["lost"] == held.page.evaluate(
        "() => JSON.parse(document.getElementById('page-data').textContent).examples.count"
    )
    assert "NaN or infinite" in held.page.text_content("#unit-outcome")
    held.page.click("#unit-reset")
    assert held.outcome()["lost"] == 0


def check_values(held: Opened) -> None:
    """Check that the values of a chart are listed as a table."""
    chart = held.page.locator("#curves figure.chart:not([hidden])").first
    chart.locator("summary").click()
    held.settle()  # the event of a folded element that opens comes a moment later
    assert chart.locator("details tbody tr").count() > 50
    chart.locator("summary").click()


def slider_times(held: Opened, moves: int = 50) -> list[float]:
    """Return how long each of many moves of a slider takes until the page shows its result, in milliseconds."""
    held.page.check("[name=scope][value=all]")
    return list(
        held.page.evaluate(
            """async (moves) => {
              const slider = document.getElementById("unit-offset");
              const outcome = document.getElementById("unit-outcome");
              const times = [];
              for (let i = 0; i < moves; i += 1) {
                await new Promise((done) => requestAnimationFrame(done));
                const before = outcome.dataset.revision;
                const began = performance.now();
                slider.value = -0.3 + 0.01 * i;
                slider.dispatchEvent(new Event("input"));
                while (outcome.dataset.revision === before) await new Promise((done) => setTimeout(done));
                document.body.getBoundingClientRect();
                times.push(performance.now() - began);
              }
              return times;
            }""",
            moves,
        )
    )


def check_sliders(held: Opened) -> float:
    """Check that a slider answers within 50 ms; return the median."""
    median = statistics.median(slider_times(held))
    assert median < 50, f"a slider took {median:.1f} ms"
    return median


def open_units(held: Opened) -> None:
    """Unfold the tables of units."""
    held.page.evaluate("() => { document.querySelector('details:has(.units)').open = true; }")


def check_sorting(held: Opened) -> None:
    """Check that a table of units sorts by a column, up and down."""
    table = "div.units:not([hidden]) table"
    open_units(held)
    for direction in ("ascending", "descending"):
        held.page.click(f"{table} thead th:nth-child(4) button")
        assert held.page.get_attribute(f"{table} thead th:nth-child(4)", "aria-sort") == direction
        cells = held.page.locator(f"{table} tbody td:nth-child(4)")
        values = [
            float(text) for text in cells.evaluate_all("(all) => all.map((cell) => cell.dataset.value)")
        ]
        assert values == sorted(values, reverse=direction == "descending")
        assert len(set(values)) > 1
    for heading in held.page.locator(".card th", has_text="least D").all():
        heading.locator("button").click()
        cells = heading.locator("xpath=ancestor::table//tbody/tr/td[1]").all_inner_texts()
        values = [float(text.split()[0].rstrip(",")) for text in cells]
        assert values == sorted(values)


def check_unit_selection(held: Opened) -> None:
    """Check that a row's button and the keyboard's arrows choose a unit."""
    open_units(held)
    held.page.locator("div.units:not([hidden]) tbody tr").nth(3).locator("button").click()
    chosen = int(held.page.input_value("#unit-number"))
    held.page.focus("#unit-after")
    held.page.keyboard.press("Enter")
    held.settle()
    assert int(held.page.input_value("#unit-number")) == chosen + 1
    assert f"unit {chosen + 1}" in held.page.locator("#unit-weights canvas").get_attribute("aria-label")


def check_keyboard(held: Opened) -> None:
    """Check that sliders, buttons and sections are reached and moved by keys alone."""
    page = held.page
    page.evaluate("() => { document.body.tabIndex = -1; document.body.focus(); }")
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "skip"
    reached = set()
    for _ in range(600):  # nine networks have many charts before the explorer
        page.keyboard.press("Tab")
        name = page.evaluate("() => document.activeElement.id || document.activeElement.name || ''")
        reached.add(name)
        if name == "example-level-number":
            break
    wanted = {"theme", "family", "unit-network", "unit-scale", "unit-offset", "unit-clip", "unit-reset"}
    assert wanted | {"example-family", "example-level"} <= reached
    page.focus("#unit-reset")
    page.keyboard.press("Enter")
    before = held.outcome()
    page.focus("#unit-offset")
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    after = held.outcome()
    assert after["revision"] > before["revision"]
    assert float(page.input_value("#unit-offset-number")) < 0
    page.focus("#example-level")
    page.keyboard.press("End")
    held.settle()
    assert page.get_attribute("#example-outcome", "data-changed") != "0"


def check_downloads(held: Opened) -> None:
    """Check that a chart and a histogram are saved as PNG, SVG and CSV."""
    chart = "#curves figure.chart:not([hidden])"
    for place, key in ((chart, "data-do"), ("#unit-explorer figure", "data-save")):
        for suffix, begins in (("png", b"\x89PNG"), ("svg", b"<svg"), ("csv", b"")):
            with held.page.expect_download() as waiting:
                held.page.locator(place).first.locator(f"[{key}={suffix}]").click()
            content = Path(waiting.value.path()).read_bytes()
            assert waiting.value.suggested_filename.endswith(f".{suffix}")
            assert content.startswith(begins)
            if suffix == "csv":
                rows = list(csv.reader(io.StringIO(content.decode())))
                assert len(rows) > 5
                assert len({len(row) for row in rows}) == 1
                if key == "data-save":
                    examples, wrong = np.array([row[-2:] for row in rows[1:]], float).sum(axis=0)
                    assert examples - wrong == held.outcome()["right"]


def check_switches(held: Opened) -> None:
    """Check that families, networks and zoom change what is drawn."""
    page = held.page
    first = page.locator("#curves figure.chart:not([hidden])").first
    first.scroll_into_view_if_needed()
    held.settle()

    def drawn() -> Any:
        held.settle()
        return first.locator(".plot svg").evaluate(
            "(svg) => svg.outerHTML.replace(/gradient_\\\\d+|clip\\\\d+/g, '')"
        )

    whole = drawn()
    assert "NaN" not in re.sub(r"<title>.*?</title>", "", whole)
    first.locator("[data-do=in]").click()
    assert drawn() != whole
    first.locator("[data-do=all]").click()
    network = page.locator("[name=network]").first
    visible = page.locator("#curves figure.chart:not([hidden])").count()
    network.uncheck()
    assert page.locator("#curves figure.chart:not([hidden])").count() < visible
    network.check()
    assert page.locator("#curves figure.chart:not([hidden])").count() == visible
    for axis in page.locator("[name=axis]").evaluate_all("(all) => all.map((each) => each.value)"):
        page.check(f"[name=axis][value={axis}]")
        offered = page.locator("[name=family]:visible").evaluate_all("(all) => all.map((each) => each.value)")
        drawn_series = page.locator("#curves figure.chart:not([hidden]) [data-series]").evaluate_all(
            "(all) => all.map((each) => each.dataset.series.split(' ')[0])"
        )
        assert set(offered) == set(drawn_series), axis
    if page.locator("[name=axis]").count():
        page.check("[name=axis][value=level]")


def check_examples(held: Opened) -> None:
    """Check that a family's level can be played, and that its identity changes nothing."""
    page = held.page
    for family in page.locator("#example-family option").evaluate_all(
        "(all) => all.map((each) => each.value)"
    ):
        page.select_option("#example-family", family)
        page.click("#example-identity")
        held.settle()
        assert page.get_attribute("#example-outcome", "data-changed") == "0", family
        assert page.locator("#example-first canvas").count() > 0, family


def accessibility_faults(held: Opened) -> list[str]:
    """Return what axe-core calls serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(held.page).response["violations"]
    return [
        f"{fault['impact']}: {fault['id']}: {fault['nodes'][0]['html'][:200]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]


def overflow(held: Opened) -> int:
    """Return by how many pixels the page is wider than its window."""
    return int(held.page.evaluate("() => document.documentElement.scrollWidth - innerWidth"))
