"""A probe's page in a browser, from disk and offline: the short form, for a convolutional network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page_checks
import probe_checks as checks
import pytest
from browser import MISSING, Opened, browser, opened
from probes import Probed, convolutional, language_model, vision_transformer

LAW = "the page of a probe says what the result says, for {}; a short form is test_the_page_works beside it"

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING or "there is a browser")


@pytest.fixture(scope="module")
def probed() -> Probed:
    return convolutional(levels=5)


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def held(running: Any, probed: Probed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    path = tmp_path_factory.mktemp("probe") / "page.html"
    path.write_text(probed.page(), encoding="utf-8")
    with opened(running, path) as page:
        yield page


@pytest.mark.slow
@pytest.mark.parametrize("check", checks.CHECKS)
def test_the_page_works(held: Opened, probed: Probed, check: Any) -> None:
    check(held, probed)
    assert held.complaints == []


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_accessible_and_fits_on_a_phone(held: Opened, theme: str) -> None:
    held.page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
    assert page_checks.accessibility_faults(held) == []
    held.page.set_viewport_size({"width": 375, "height": 800})
    held.settle()
    assert page_checks.overflow(held) <= 0
    held.page.set_viewport_size({"width": 1400, "height": 900})
    assert held.complaints == []


@pytest.mark.long(LAW.format("a convolutional network, a Vision Transformer and a language model"))
@pytest.mark.parametrize("make", [convolutional, vision_transformer, language_model])
def test_every_kind_of_model(running: Any, tmp_path: Path, make: Any) -> None:
    """All levels of each family, every check, and all widths, light and dark."""
    probed = make(levels=None)
    path = tmp_path / "page.html"
    path.write_text(probed.page(), encoding="utf-8")
    with opened(running, path) as held:
        for check in checks.CHECKS:
            check(held, probed)
        assert held.complaints == []
    print(f"\n{make.__name__}: {path.stat().st_size / 1e6:.1f} MB")
    for width in (375, 900, 1400):
        for scheme in ("light", "dark"):
            view = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
            with opened(running, path, **view) as held:
                assert page_checks.overflow(held) <= 0
                assert page_checks.accessibility_faults(held) == []
                assert held.complaints == []
