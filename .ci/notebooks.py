"""Run the notebooks, and check that they are stored without outputs and say no number that they don't print.

python .ci/notebooks.py             # all notebooks of docs/notebooks
python .ci/notebooks.py --keep DIR  # and write them, with their outputs, to a folder

A notebook is run in its own folder by a new kernel. An error in a cell, and anything on standard error, ends the
check. A number in a text cell must be in the code or in the output of some cell.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SECONDS = 300  # of one cell, on a slow machine
LINK = re.compile(r"\]\([^)]*\)")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
TAG = re.compile(r"<style>.*?</style>|<[^>]*>", re.DOTALL)


def problems_as_stored(notebook: nbformat.NotebookNode) -> list[str]:
    """Return what a stored notebook holds and mustn't."""
    return [
        f"cell {place} is stored with outputs; clear them"
        for place, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and (cell.outputs or cell.execution_count is not None)
    ]


def run(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Run all cells by a new kernel; an error in a cell raises."""
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, kernel_name="python3", timeout=SECONDS, resources=resources).execute()


def printed(notebook: nbformat.NotebookNode) -> str:
    """Return the code and all texts that were printed or displayed."""
    texts = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            texts.append(cell.source)
            for output in cell.outputs:
                data = output.get("data", {})
                texts += [
                    output.get("text", ""),
                    data.get("text/plain", ""),
                    TAG.sub(" ", data.get("text/html", "")),
                ]
    return "\n".join(texts)


def problems_as_run(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the lines on standard error, and the numbers in text cells that no cell prints."""
    known = set(NUMBER.findall(printed(notebook)))
    found = []
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            errors = [output.text for output in cell.outputs if output.get("name") == "stderr"]
            found += [f"cell {place} writes to standard error: {text}" for text in errors]
        else:
            numbers = NUMBER.findall(LINK.sub("]", cell.source))
            found += [
                f"cell {place} says {number}, which no cell prints"
                for number in numbers
                if number not in known
            ]
    return found


def main() -> int:
    """Check all notebooks; return the exit status."""
    keep = Path(sys.argv[sys.argv.index("--keep") + 1]) if "--keep" in sys.argv else None
    failed = 0
    for path in NOTEBOOKS:
        notebook, began = nbformat.read(path, as_version=4), time.monotonic()
        problems = problems_as_stored(notebook)
        run(notebook, path.parent)
        problems += problems_as_run(notebook)
        if keep is not None:
            nbformat.write(notebook, keep / path.name)
        failed += len(problems)
        print(
            f"{path.name}: {time.monotonic() - began:.0f} s, {len(problems)} problems", *problems, sep="\n  "
        )
    return 1 if failed or not NOTEBOOKS else 0


if __name__ == "__main__":
    sys.exit(main())
