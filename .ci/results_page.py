"""Make or check `docs/results.md`, the page of the kept study, from the tables in `results/paper`.

python .ci/results_page.py --write    # make the page
python .ci/results_page.py            # check that the page is up to date
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from pages import kept_table, read, write_or_check

import nearzero as nz
from nearzero.report.comparison import compare_baseline, reproduction

KEPT, PAGE = Path("results/paper"), Path("docs/results.md")
WORDS = Path(".ci/templates/results.md")
TABLES = ("table1_baseline", "differing_rows", "table2_scale", "table3_clip", "table4_offset")


def page() -> str:
    """Return the whole page: text from `.ci/templates/results.md`, numbers from the tables."""
    study = nz.Study.open(KEPT)
    baseline = [row for network in ("abs", "relu") for row in compare_baseline(study, network)]
    agreeing = sum(row.agrees for row in baseline)
    head = (
        f"{agreeing} of the 6 numbers of table 1 lie within 3 standard errors and half a unit of the last digit. "
        f"{reproduction(study)}"
    )
    tables = [kept_table(KEPT / "tables" / f"{name}.md") for name in TABLES]
    text = read(WORDS).replace("{verdict}", head).replace("{far}", far_levels(study))
    return "\n\n".join((text, *tables, "## Log", f"```text kept\n{read(KEPT / 'log')}\n```")) + "\n"


def far_levels(study: nz.Study) -> str:
    """Return a sentence with the correlations, over the runs of Abs, of accuracies at negative levels of offset."""
    levels = (-2.0, -1.0, -0.75, -0.5)
    curve = study.curve("abs", "offset")
    runs = np.array([curve.sel(level=level, method="nearest").values for level in levels])
    correlations = np.corrcoef(runs)[0, 1:]
    pairs = zip(levels[1:], correlations, strict=True)
    text = ", ".join(f"{100 * level:.0f} % {correlation:.2f}" for level, correlation in pairs)
    return (
        f"Our runs' accuracies at {100 * levels[0]:.0f} % correlate with those at other levels ({text}), and "
        f"range from {100 * runs[0].min():.1f} to {100 * runs[0].max():.1f} % from run to run."
    )


if __name__ == "__main__":
    sys.exit(write_or_check(PAGE, page(), KEPT, sys.argv[1:]))
