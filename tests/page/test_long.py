"""Pages in a browser, at length: the paper's study, the quick study's networks, and every activation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page_checks as checks
import pytest
from browser import MISSING, browser, opened

import nearzero as nz

PAPER = Path(__file__).parents[2] / "results" / "paper"
LAW = "a page's sliders give what Python computes, for {}; a short form is tests/page/test_browser.py"
MOST = 15e6  # bytes
SMALL = {"data": "digits", "runs": 1, "units": 32, "steps": 300, "learning_rate": 0.01, "batch_size": 64}

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING or "there is a browser")


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    with browser() as started:
        yield started


def check_whole(running: Any, study: nz.Study, folder: Path) -> None:
    """Check everything about a study's page, at three widths, light and dark."""
    data = nz.datasets.load(study.spec.data)
    path = folder / "page.html"
    size = len(study.to_html(path).encode())
    assert size <= MOST
    networks = [checks.page_network(study, data, name) for name in study.spec.activations]
    with opened(running, path) as held:
        paint = held.page.evaluate(
            "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
        )
        assert paint < 2000
        lines = checks.check_settings(held, networks)
        assert len(lines) == len(checks.SETTINGS) * len(networks)
        if study.spec.offset != "shift":
            checks.check_study_offset(held, networks)
        median = checks.check_sliders(held)
        for check in (
            checks.check_sorting,
            checks.check_unit_selection,
            checks.check_keyboard,
            checks.check_downloads,
            checks.check_switches,
            checks.check_examples,
        ):
            check(held)
        assert held.complaints == []
    print("", *lines, f"{size / 1e6:.1f} MB, first paint {paint:.0f} ms, slider {median:.1f} ms", sep="\n")
    for width in (375, 900, 1400):
        for scheme in ("light", "dark"):
            view = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
            with opened(running, path, **view) as held:
                assert checks.overflow(held) <= 0
                assert checks.accessibility_faults(held) == []
                assert held.complaints == []


@pytest.mark.long(LAW.format("the paper's study"))
def test_the_papers_page(running: Any, tmp_path: Path) -> None:
    check_whole(running, nz.Study.open(PAPER), tmp_path)


@pytest.mark.long(LAW.format("the quick preset"))
def test_the_quick_page(running: Any, tmp_path: Path) -> None:
    study = nz.reproduce("quick", tmp_path / "study", settings={"data": "mnist-5k", "runs": 2})
    check_whole(running, study, tmp_path)


@pytest.mark.long(LAW.format("all nine activations, and a clip of activations"))
@pytest.mark.parametrize("clip", ["pre", "post"])
def test_every_activation(running: Any, tmp_path: Path, clip: str) -> None:
    settings = SMALL | {"activations": list(nz.ACTIVATIONS), "offset": "shift", "range": "pre", "clip": clip}
    study = nz.Study.create(tmp_path / "study", "quick", settings).train().sweep()
    check_whole(running, study, tmp_path)
