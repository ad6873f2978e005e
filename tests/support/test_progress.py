"""Progress bars: in a real notebook, and step by step."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from threading import Thread
from typing import Any

import IPython.display
import nbformat
import pytest
from commands import Heard
from nbclient import NotebookClient
from rich.console import Console

from nearzero.support import progress
from nearzero.support.progress import in_notebook, python_progress

CELLS = (
    "import time, warnings; warnings.simplefilter('error')",
    "import nearzero as nz, numpy as np, torch\nfrom rich.console import Console",
    "model = nz.TwoLayer(np.eye(2), np.zeros(2), np.eye(2), np.zeros(2), 'relu').to_module()\n"
    "def slow(logits, target):\n    time.sleep(0.01)\n    return logits[:, 0]\n"
    "data = [(torch.rand(4, 2), torch.zeros(4).long())] * 5\n"
    "_ = nz.probe(model, data, levels=4, metrics=[slow], backend='model')",
    "_ = nz.probe(model, data, levels=2, progress=False)",
    "from nearzero.study.journal import Journal\n"
    "with Journal.unlogged(Console()).bar('<training>', 3) as bar:\n"
    "    for done in range(4):\n        time.sleep(0.15)\n        bar(done)",
)


class Watching(NotebookClient):
    """Keeps what is displayed, with every update."""

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] in ("display_data", "update_display_data"):
            self.__dict__.setdefault("shown", []).append((cell_index, msg["content"]["data"]))
        return super().process_message(msg, cell, cell_index)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::Warning:jupyter_client", "ignore::Warning:zmq", "ignore::ResourceWarning"
)
def test_bars_in_a_notebook() -> None:
    """They are updated, end as a line, and nothing else is printed."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    client = Watching(notebook, kernel_name="python3", timeout=120)
    client.execute()
    outputs = {place: cell.outputs for place, cell in enumerate(notebook.cells) if cell.outputs}
    assert {place: [output.output_type for output in own] for place, own in outputs.items()} == {
        2: ["display_data"],
        4: ["display_data"],
    }
    probing, training = ([data for place, data in client.shown if place == cell] for cell in (2, 4))
    assert len(probing) > 2
    assert len(training) > 2
    assert all("<progress" in data["text/html"] for data in (*probing[:-1], *training[:-1]))
    for place, start in ((2, "probing: 5 of 5, 0:0"), (4, "<training>: 3 of 3, 0:0")):
        assert outputs[place][0].data["text/plain"].startswith(start)
        assert "<progress" not in outputs[place][0].data["text/html"]
    assert "<training>" not in outputs[4][0].data["text/html"]


# --- step by step ---


class Handle:
    """An output of a cell, and a clock."""

    def __init__(self) -> None:
        self.states: list[dict[str, str]] = []
        self.now = 100.0

    def display(self, data: dict[str, str], **options: bool) -> Handle:
        assert options == {"raw": True, "display_id": True}
        self.states.append(data)
        return self

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.states.append(data)


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    handle = Handle()
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(IPython.display, "display", handle.display)
    monkeypatch.setattr(progress.time, "monotonic", lambda: handle.now)
    return handle


def test_the_states_of_a_bar(handle: Handle) -> None:
    with python_progress("probing", None) as report:
        for done in range(1, 5):
            handle.now += 20.0
            report(done, 4)
            report(done, 4)  # at once: not shown
    assert [state["text/plain"] for state in handle.states] == [
        "probing: 0:00",
        "probing: 1 of 4, 0:20, 1:00 left",
        "probing: 2 of 4, 0:40, 0:40 left",
        "probing: 3 of 4, 1:00, 0:20 left",
        "probing: 4 of 4, 1:20, 0:00 left",
        "probing: 4 of 4, 1:20",
    ]
    assert '<progress value="3" max="4" aria-label="probing">' in handle.states[3]["text/html"]


def test_a_bar_without_an_end(handle: Handle) -> None:
    with python_progress("measuring", True) as report:
        handle.now += 1.0
        report(1500, None)
    assert [state["text/plain"] for state in handle.states[1:]] == ["measuring: 1,500, 0:01"] * 2
    assert "<progress aria-label" in handle.states[1]["text/html"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_bar_that_is_interrupted_says_so(handle: Handle, error: type[BaseException]) -> None:
    def work(report: Callable[[int, int], None]) -> None:
        report(2, 4)
        raise error

    with pytest.raises(error), python_progress("probing", None) as report:
        work(report)
    assert handle.states[-1]["text/plain"] == "probing: stopped, 2 of 4, 0:00"


def test_no_bar_if_none_is_wanted(handle: Handle) -> None:
    with python_progress("probing", False) as report:
        report(1, 2)
    assert handle.states == []


def test_a_test_is_no_notebook() -> None:
    assert not in_notebook()  # although IPython is imported


# --- lines ---


class Terminal(StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_lines_of_the_innermost_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nested displays the innermost prints, and the outer one again when it has ended."""
    monkeypatch.setattr(progress, "SAY_EVERY", 0.01)
    console = Console(file=StringIO())

    def heard(words: str) -> None:
        stream = Heard()
        monkeypatch.setattr(progress.sys, "stderr", stream)
        stream.wait_for(words)
        assert {line[:5] for line in stream.getvalue().splitlines()[1:-1]} <= {words[:5]}

    with progress.printing_lines(), progress.activity(console, "outer") as change:
        heard("outer: 0:")
        with progress.progress_bar(console, "inner", 4) as report:
            heard("inner: 0 of 4, 0:")
            report(3, 4)
            heard("inner: 3 of 4, 0:")
            with python_progress("the innermost", None) as innermost:
                innermost(1500, None)
                heard("the innermost: 1,500, 0:")
            heard("inner: 3 of 4")
        change("other words")
        heard("other words: 0:")
    assert progress._displays == []


def test_no_lines_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SAY_EVERY", 0.01)
    monkeypatch.setattr("builtins.print", lambda *_, **__: pytest.fail("printed"))
    console = Console(file=StringIO())
    with progress.activity(console, "a") as change, progress.progress_bar(console, "b", 4) as report:
        change("c")
        report(1, 4)
        with python_progress("d", None) as report:
            report(1, 4)


def without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Thread, "start", refuse)


def test_without_a_thread_work_goes_on_and_no_line_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    without_threads(monkeypatch)
    console = Console(file=StringIO())
    with progress.printing_lines(), progress.activity(console, "outer"):
        with progress.progress_bar(console, "inner", 4) as report:
            report(1, 4)
        assert len(progress._displays) == 1
    assert progress._displays == []


def test_a_spinner_that_cannot_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    without_threads(monkeypatch)
    console = Console(file=Terminal(), width=80, force_terminal=True)
    with pytest.raises(RuntimeError, match="can't start new thread"), progress.activity(console, "reading"):
        pass
    assert progress._displays == []


def test_a_bar_within_a_spinner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both on one terminal: the spinner makes room, and both are gone at the end."""
    console = Console(file=Terminal(), width=80, force_terminal=True)
    with progress.activity(console, "reading"):
        with progress.progress_bar(console, "training", 4) as report:
            report(4, 4)
        console.print("a line")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "reading" in text
    assert "4/4" in text
    assert "a line" in text


def test_standard_error_takes_the_bar_of_a_command_whose_output_is_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress.sys, "stderr", Terminal())
    output = StringIO()
    with progress.printing_lines(), progress.activity(Console(file=output), "reading"):
        pass
    assert "reading" in progress.sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert output.getvalue() == ""
