"""The page of the grids: `docs/grids.md`, words from `docs/grids_words.md`, tables from `results/grids`.

python .ci/grids_page.py --write    # make the page
python .ci/grids_page.py            # see whether it is what the grids say
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pages import read, write_or_check

import nearzero as nz
from nearzero.report.grids import grid_table
from nearzero.report.render import to_markdown

KEPT, PAGE, WORDS = Path("results/grids"), Path("docs/grids.md"), Path("docs/grids_words.md")


def section(name: str) -> str:
    """The question, the table and the figure of one grid; `{name}` in the words becomes this."""
    grid = nz.Grid.open(KEPT / name)
    spec = nz.Grid.create(KEPT / name, f"grids/{name}.toml").spec  # refuses a kept grid of another spec
    table = re.sub(r"^## .*\n+", "", to_markdown(grid_table(grid))).strip()
    return "\n\n".join(
        (
            f"*{spec.question}* Spec: [grids/{name}.toml](../grids/{name}.toml); {grid.title[len(spec.title) + 2 :]}.",
            f"![D for each network](../results/grids/{name}/figures/grid.png)",
            table,
        )
    )


def page() -> str:
    """The whole page."""
    words = read(WORDS)
    names = re.findall(r"^\{(\w+)\}$", words, re.MULTILINE)
    missing = {path.stem for path in Path("grids").glob("*.toml")} ^ set(names)
    if missing:
        raise SystemExit(f"{WORDS} and grids/ don't name the same grids: {', '.join(sorted(missing))}")
    for name in names:
        words = words.replace(f"{{{name}}}", section(name))
    return f"{words}\n"


if __name__ == "__main__":
    sys.exit(write_or_check(PAGE, page(), KEPT, sys.argv[1:]))
