"""Compare the kept pictures with what the code draws from the kept results, and find pictures that nothing shows.

python .ci/figures.py            # exit code 1 if a picture is stale, missing, or of no use
python .ci/figures.py --write    # write the tables and pictures of the kept results anew

A picture says what it draws (`nearzero.report.figures.content`), so nothing is rendered, and fonts don't matter.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nearzero.grid import Grid
from nearzero.report import write
from nearzero.report.figures.content import content_of, differences, drawn
from nearzero.report.figures.peaks import activations_figure, offsets_figure
from nearzero.study import Study
from nearzero.support.checksums import working

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER, IMAGES = Path("results/paper"), Path("docs/images")
SUFFIXES = (".png", ".pdf")


def grid_folders() -> list[Path]:
    """Return the folders of the kept grids that are measured."""
    return sorted(path.parent for path in Path("results").glob("*/*/responses.nc"))


def drawn_now() -> Iterator[tuple[Path, Figure]]:
    """Yield every figure of the kept results, with the path of its files, without their suffix."""
    study = Study.open(PAPER)
    figures = [*write.report_figures(study), *write.verdict_figures(study.verdict(), study.notices)]
    figures += [("figure2_activations", activations_figure()), ("figure3_offsets", offsets_figure())]
    for name, figure in figures:
        yield PAPER / "figures" / name, figure
    for folder in grid_folders():
        for name, figure in write.grid_figures(Grid.open(folder)):
            yield folder / "figures" / name, figure


def faults() -> Iterator[str]:
    """Yield a line for each picture that is stale or missing, or that nothing draws or shows."""
    expected = set()
    for path, figure in drawn_now():
        expected |= {path.with_suffix(suffix) for suffix in SUFFIXES}
        picture = path.with_suffix(".png")
        kept = content_of(picture.read_bytes()) if picture.is_file() else None
        found = differences(kept, drawn(figure)) if kept else ["isn't there, or doesn't say what it draws"]
        yield from (f"{picture}: {line}" for line in found)
    files = {path for folder in Path("results").rglob("figures") for path in folder.iterdir()}
    pictures = {path for path in files if path.suffix in SUFFIXES}
    yield from (f"{path}: no longer drawn" for path in sorted(pictures - expected))
    yield from (f"{path}: missing" for path in sorted(expected - pictures))
    pages = [*Path("docs").rglob("*.md"), *Path(".ci/templates").glob("*.md"), Path("README.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    yield from (f"{path}: on no page" for path in sorted(IMAGES.iterdir()) if path.name not in text)


def write_all() -> None:
    """Write all tables and pictures of the kept results."""
    study = Study.open(PAPER)
    further = study.tables()["verdict"]
    with working(PAPER):
        write.write_report(study, PAPER)
        write.write_verdict(study.verdict(), study.title, PAPER, study.notices, further)
        write.write_audit(study.audited(), PAPER)
    for folder in grid_folders():
        with working(folder):
            write.write_grid(Grid.open(folder), folder)


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        write_all()
    lines = list(faults())
    print("\n".join(lines) or "the kept pictures are those that the code draws")
    sys.exit(bool(lines))
