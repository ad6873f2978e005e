"""A study's page in a browser, from disk and offline: the short form, on a small study of digits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page_checks as checks
import pytest
from browser import MISSING, Opened, browser, opened

import nearzero as nz

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING or "there is a browser")]

HOSTILE = "</script><script>document.title = 'broken'</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> nz.Study:
    """Two networks on digits, with everything that a page can show of a study."""
    settings = {
        "data": "digits",
        "runs": 2,
        "units": 24,
        "steps": 300,
        "learning_rate": 0.01,
        "batch_size": 64,
    }
    place = tmp_path_factory.mktemp("study") / "digits"
    made = nz.Study.create(place, "quick", settings | {"verdict_draws": 1}).train().sweep()
    made.judge(untrained=True, near_far=True)
    made.audit()
    return made


@pytest.fixture(scope="module")
def path(study: nz.Study) -> Path:
    place = study.folder / "page.html"
    study.to_html(place)
    return place


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def held(running: Any, path: Path) -> Iterator[Opened]:
    """The page, open; its complaints are looked at after each test."""
    with opened(running, path) as page:
        yield page


@pytest.fixture(autouse=True)
def quiet(held: Opened) -> Iterator[None]:
    """Nothing is on the console, and nothing is asked of the network."""
    yield
    assert held.complaints == []


def test_sliders_give_what_python_computes(
    held: Opened, study: nz.Study, digits: nz.datasets.Dataset
) -> None:
    networks = [checks.page_network(study, digits, name) for name in study.spec.activations]
    lines = checks.check_settings(held, networks)
    assert len(lines) == 20
    checks.check_study_offset(held, networks)


@pytest.mark.parametrize(
    "check",
    [
        checks.check_sorting,
        checks.check_unit_selection,
        checks.check_keyboard,
        checks.check_downloads,
        checks.check_switches,
        checks.check_examples,
        checks.check_infinite,
        checks.check_values,
    ],
)
def test_the_page_works(held: Opened, check) -> None:  # type: ignore[no-untyped-def]
    check(held)


def test_choosing_a_network_shows_the_unit_that_matters_most(held: Opened) -> None:
    page = held.page
    for each in page.evaluate("() => JSON.parse(document.getElementById('page-data').textContent).networks"):
        page.select_option("#unit-network", each["key"])
        assert page.input_value("#unit-number") == str(each["first"])
        assert f"opens on unit {each['first']}:" in page.text_content("#unit-why")
        for strip in each["matched"]:
            assert page.locator(f"[id='{strip['id']}'] canvas").count() == len(strip["items"])
    assert page.locator("#example-plot text", has_text="examples in each bin").count() == 1


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_accessible(held: Opened, theme: str) -> None:
    held.page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
    assert checks.accessibility_faults(held) == []


def test_the_theme_follows_the_system_and_the_button(held: Opened) -> None:
    page = held.page

    def paper() -> str:
        return str(page.evaluate("() => getComputedStyle(document.body).backgroundColor"))

    page.evaluate("() => { document.documentElement.dataset.theme = 'system'; }")
    page.emulate_media(color_scheme="light")
    light = paper()
    page.emulate_media(color_scheme="dark")
    dark = paper()
    assert light != dark
    page.click("#theme")  # light
    assert paper() == light
    page.click("#theme")  # dark
    page.emulate_media(color_scheme="light")
    assert paper() == dark


def test_it_fits_on_a_phone(held: Opened) -> None:
    held.page.set_viewport_size({"width": 375, "height": 800})
    held.settle()
    assert checks.overflow(held) <= 0
    for name in ("numbers", "audit_sentences"):  # each cell below the one before, after its heading
        cells = held.page.locator(f'[data-table="{name}"] tbody tr').first.locator("th, td")
        boxes = [cells.nth(place).bounding_box() for place in range(cells.count())]
        assert all(box is not None and box["x"] + box["width"] <= 375 for box in boxes)
        assert len({box["y"] for box in boxes if box is not None}) == len(boxes)
        assert cells.nth(1).get_attribute("data-label") == ("quantity" if name == "numbers" else "network")
    held.page.set_viewport_size({"width": 1400, "height": 900})


def test_texts_from_outside_are_texts(running: Any, study: nz.Study, tmp_path: Path) -> None:
    """A hostile title is shown as it is, and runs nothing."""
    hostile = type("Hostile", (nz.Study,), {"title": HOSTILE, "notices": (HOSTILE,)})
    place = tmp_path / "hostile.html"
    hostile.open(study.folder).to_html(place)
    with opened(running, place) as page:
        assert page.page.text_content(".subtitle") == HOSTILE
        assert page.page.title().endswith(HOSTILE)
        assert page.page.locator("img").count() == 0
        assert page.complaints == []
