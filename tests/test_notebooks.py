"""The stored notebooks, and the gate's check of them; the gate runs them (`.ci/notebooks.py`)."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

ROOT = Path(__file__).parents[1]


def gate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ci_notebooks", ROOT / ".ci" / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GATE = gate()


@pytest.mark.parametrize("path", GATE.NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert GATE.problems_as_stored(notebook) == []


@pytest.mark.parametrize("path", GATE.NOTEBOOKS, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    text = "".join(
        cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"
    )
    targets = [target for target in re.findall(r"\]\(([^)#]*)", text) if "://" not in target]
    assert len(targets) > 3
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_there_are_notebooks() -> None:
    assert {path.name for path in GATE.NOTEBOOKS} == {"paper_in_ten_minutes.ipynb", "your_own_model.ipynb"}


def test_what_the_gate_finds() -> None:
    """A stored output, a warning, and a number in the text that is printed nowhere."""
    v4 = nbformat.v4
    text = v4.new_markdown_cell("The accuracy is 98.5 %, over 20 runs and 1,000 images ([page](page2.md)).")
    code = v4.new_code_cell("runs = 20")
    notebook = v4.new_notebook(cells=[text, code])
    assert GATE.problems_as_stored(notebook) == []
    assert GATE.problems_as_run(notebook) == [
        "cell 0 says 98.5, which no cell prints",
        "cell 0 says 1,000, which no cell prints",
    ]
    html = {"text/html": "<style>a {width: 98.5}</style><td title='1,000'>98.5</td>"}
    code.outputs = [
        v4.new_output("stream", name="stdout", text="1,000"),
        v4.new_output("display_data", data=html),
        v4.new_output("stream", name="stderr", text="a warning"),
    ]
    assert GATE.problems_as_run(notebook) == ["cell 1 writes to standard error: a warning"]
    assert GATE.problems_as_stored(notebook) == ["cell 1 is stored with outputs; clear them"]
    code.outputs[0].text = "1,00"
    assert "cell 0 says 1,000, which no cell prints" in GATE.problems_as_run(notebook)
