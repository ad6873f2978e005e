"""Figures 2 and 3 are the same whether they are prerendered on a thread or drawn when they are needed."""

import threading

import pytest

from nearzero.report import prerender
from nearzero.report.prerender import peak_figures, prerender_peak_figures

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
    monkeypatch.setattr(prerender, "_files", {})


def test_prerendered_or_not_they_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    with prerender_peak_figures():
        pass
    beside = peak_figures()
    finish()
    monkeypatch.setattr(prerender, "_files", {})
    assert peak_figures() == beside
    assert set(beside) == NAMES


def test_after_an_error_nothing_more_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work, go_on = threading.Event(), threading.Event()

    def figure_bytes(figure: object, kind: str) -> bytes:
        at_work.set()
        go_on.wait(60)
        return b"drawn"

    monkeypatch.setattr("nearzero.report.figures.style.figure_bytes", figure_bytes)

    def interrupted() -> None:
        with prerender_peak_figures():
            assert at_work.wait(60)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    go_on.set()
    finish()
    assert set(prerender._files) == {"figures/figure2_activations.png", "figures/figure2_activations.pdf"}


def test_an_error_on_the_thread_is_raised_when_the_figures_are_needed(
    monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    def figure_bytes(figure: object, kind: str) -> bytes:
        raise OSError("no font")

    monkeypatch.setattr("nearzero.report.figures.style.figure_bytes", figure_bytes)
    with prerender_peak_figures():
        pass
    finish()
    with pytest.raises(OSError, match="no font"):
        peak_figures()
    assert capfd.readouterr() == ("", "")
