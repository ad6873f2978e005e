"""Figures 2 and 3, drawn while something else is done, are those that are drawn when they're needed."""

import threading

import pytest

from nearzero.report import prerender as ahead
from nearzero.report.prerender import computed_figures, drawn_ahead

NAMES = {
    f"{name}.{suffix}"
    for name in ("figures/figure2_activations", "figures/figure3_offsets")
    for suffix in ("png", "pdf")
}


def finish() -> None:
    for thread in threading.enumerate():
        if thread.name == "nearzero-figures":
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture(autouse=True)
def nothing_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_drawn", {})


def test_ahead_or_not_they_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    with drawn_ahead():
        pass
    beside = computed_figures()
    finish()
    monkeypatch.setattr(ahead, "_drawn", {})
    assert computed_figures() == beside
    assert set(beside) == NAMES


def test_after_an_error_nothing_more_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work, go_on = threading.Event(), threading.Event()

    def figure_bytes(figure: object, kind: str) -> bytes:
        at_work.set()
        go_on.wait(60)
        return b"drawn"

    monkeypatch.setattr("nearzero.report.figures.style.figure_bytes", figure_bytes)

    def interrupted() -> None:
        with drawn_ahead():
            assert at_work.wait(60)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    go_on.set()
    finish()
    assert set(ahead._drawn) == {"figures/figure2_activations.png", "figures/figure2_activations.pdf"}


def test_what_fails_ahead_fails_where_it_is_needed(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    def figure_bytes(figure: object, kind: str) -> bytes:
        raise OSError("no font")

    monkeypatch.setattr("nearzero.report.figures.style.figure_bytes", figure_bytes)
    with drawn_ahead():
        pass
    finish()
    with pytest.raises(OSError, match="no font"):
        computed_figures()
    assert capfd.readouterr() == ("", "")
