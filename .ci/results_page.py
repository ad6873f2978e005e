"""The page of the kept result: `docs/results.md`, made from the tables in `results/paper`.

python .ci/results_page.py --write    # make the page
python .ci/results_page.py            # see whether it is what the tables say
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from pages import read, write_or_check

import nearzero as nz
from nearzero.report.comparison import compare_baseline, reproduction

KEPT, PAGE = Path("results/paper"), Path("docs/results.md")
WORDS = Path("docs/results_words.md")
TABLES = ("table1_baseline", "differing_rows", "table2_scale", "table3_clip", "table4_offset")


def page() -> str:
    """The whole page: words from a file of their own, numbers from the tables."""
    study = nz.Study.open(KEPT)
    baseline = [row for network in ("abs", "relu") for row in compare_baseline(study, network)]
    agreeing = sum(row.agrees for row in baseline)
    head = (
        f"{agreeing} of the 6 numbers of table 1 lie within 3 standard errors and half a unit of the last digit. "
        f"{reproduction(study)}"
    )
    tables = [read(KEPT / "tables" / f"{name}.md") for name in TABLES]
    words = read(WORDS).replace("{verdict}", head).replace("{far}", far_end(study))
    return "\n\n".join((words, *tables, "## Log", f"```\n{read(KEPT / 'log')}\n```")) + "\n"


def far_end(study: nz.Study) -> str:
    """What the runs of Abs at the far negative levels of offset have to do with each other."""
    levels = (-2.0, -1.0, -0.75, -0.5)
    curve = study.curve("abs", "offset")
    runs = np.array([curve.sel(level=level, method="nearest").values for level in levels])
    found = np.corrcoef(runs)[0, 1:]
    words = ", ".join(f"{100 * level:.0f} % {r:.2f}" for level, r in zip(levels[1:], found, strict=True))
    return (
        f"our runs' accuracies at {100 * levels[0]:.0f} % correlate with those at other levels ({words}), and "
        f"range from {100 * runs[0].min():.1f} to {100 * runs[0].max():.1f} % from run to run."
    )


if __name__ == "__main__":
    sys.exit(write_or_check(PAGE, page(), KEPT, sys.argv[1:]))
