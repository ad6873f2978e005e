"""Make or check `docs/grids.md`: text from `.ci/templates/grids.md`, tables from `results/grids`.

python .ci/grids_page.py --write    # make the page
python .ci/grids_page.py            # check that the page is up to date
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

from pages import read, table_of, write_or_check

import nearzero as nz
from nearzero.grid.spec import named_grids
from nearzero.report.grids import grid_table, judgements

KEPT, PAGE, WORDS = Path("results/grids"), Path("docs/grids.md"), Path(".ci/templates/grids.md")
SPECS = "../src/nearzero/grid/specs"  # seen from the page

# What the checks say about a direction, by their worst outcome; the worst first.
PHRASES = {
    "not measured": "not checked",
    "turns": "change with a check",
    "undecided": "are undecided by a check",
    "holds": "are robust",
}


def section(folder: Path, path: Path, link: str) -> str:
    """Return the question, the figure and the table of a kept grid.

    Args:
        folder: of the grid.
        path: the file of its spec.
        link: the same file, seen from the page.
    """
    grid = nz.Grid.open(folder)
    spec = nz.Grid.create(folder, path).spec  # raises if the kept grid has another spec
    table = table_of(grid_table(grid))
    return "\n\n".join(
        (
            f"*{spec.question}* Spec: [{path.stem}]({link}); {grid.title[len(spec.title) + 2 :]}.",
            f"![D for each network](../{folder}/figures/grid.png)",
            table,
        )
    )


def together(names: list[str]) -> str:
    """Return a table of all verdicts of all grids, and of their checks, for Abs, ReLU and the other activations."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    checked: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for name in names:
        grid = nz.Grid.open(KEPT / name)
        for family, verdict in judgements(grid).items():
            for network in verdict.networks:
                label = network.split(",")[0]
                group = label if label in ("Abs", "ReLU") else "other activations"
                counts[group, family][verdict.finding(network)] += 1
                if outcomes := {result.outcome for result in verdict.checked(network)}:
                    worst = next(outcome for outcome in PHRASES if outcome in outcomes)
                    checked[group, family][PHRASES[worst]] += 1
    lines = ["| networks | distance | verdicts | of the directions |", "| --- | --- | --- | --- |"]
    for place, found in counts.items():
        verdicts, checks = (
            ", ".join(f"{what} {number}" for what, number in each.most_common())
            for each in (found, checked[place])
        )
        lines.append(f"| {' | '.join(place)} | {verdicts}; of {found.total()} | {checks or '–'} |")
    return "\n".join(lines)


def page() -> str:
    """Return the whole page."""
    content = read(WORDS)
    names = [name for name in re.findall(r"^\{(\w+)\}$", content, re.MULTILINE) if name != "together"]
    differing = named_grids().keys() ^ set(names)
    if differing:
        raise SystemExit(f"{WORDS} and nearzero don't have the same grids: {', '.join(sorted(differing))}")
    content = content.replace("{together}", together(names))
    for name in names:
        content = content.replace(
            f"{{{name}}}", section(KEPT / name, named_grids()[name], f"{SPECS}/{name}.toml")
        )
    return f"{content}\n"


if __name__ == "__main__":
    sys.exit(write_or_check(PAGE, page(), KEPT, sys.argv[1:]))
