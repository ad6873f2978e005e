"""Make or check `docs/grids.md`: text from `.ci/templates/grids.md`, tables from `results/grids`.

python .ci/grids_page.py --write    # make the page
python .ci/grids_page.py            # check that the page is up to date
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pages import read, write_or_check

import nearzero as nz
from nearzero.report.grids import grid_table
from nearzero.report.render import to_markdown

KEPT, PAGE, WORDS = Path("results/grids"), Path("docs/grids.md"), Path(".ci/templates/grids.md")


def section(name: str) -> str:
    """Return the question, the figure and the table of a grid, which replace `{name}` in the text."""
    grid = nz.Grid.open(KEPT / name)
    spec = nz.Grid.create(KEPT / name, f"grids/{name}.toml").spec  # raises if the kept grid has another spec
    table = re.sub(r"^## .*\n+", "", to_markdown(grid_table(grid))).strip()
    return "\n\n".join(
        (
            f"*{spec.question}* Spec: [grids/{name}.toml](../grids/{name}.toml); {grid.title[len(spec.title) + 2 :]}.",
            f"![D for each network](../results/grids/{name}/figures/grid.png)",
            table,
        )
    )


def page() -> str:
    """Return the whole page."""
    content = read(WORDS)
    names = re.findall(r"^\{(\w+)\}$", content, re.MULTILINE)
    differing = {path.stem for path in Path("grids").glob("*.toml")} ^ set(names)
    if differing:
        raise SystemExit(f"{WORDS} and grids/ don't have the same grids: {', '.join(sorted(differing))}")
    for name in names:
        content = content.replace(f"{{{name}}}", section(name))
    return f"{content}\n"


if __name__ == "__main__":
    sys.exit(write_or_check(PAGE, page(), KEPT, sys.argv[1:]))
