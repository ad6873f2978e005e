"""Write a report to disk. No other module of `report` writes anything.

Every file is written whole or not at all, with a checksum (`nearzero.support.checksums`), tables before figures.
matplotlib is imported inside functions, because the numbers of a report don't need it.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from nearzero.analysis.verdict import Verdict
from nearzero.mechanisms.reference import planted_bands
from nearzero.paper.audit.values import Audit
from nearzero.report.audit import audited_tables
from nearzero.report.captions import figure_captions
from nearzero.report.grids import GridResults, grid_tables
from nearzero.report.prerender import peak_figures
from nearzero.report.render import to_csv, to_latex, to_markdown
from nearzero.report.results import StudyResults
from nearzero.report.table import Table
from nearzero.report.tables import tables
from nearzero.report.verdict import judged_tables
from nearzero.support.checksums import write_recorded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "grid_figures",
    "report_figures",
    "verdict_figures",
    "write_audit",
    "write_grid",
    "write_report",
    "write_verdict",
]


def write_audit(audit: Audit, folder: Path) -> list[Path]:
    """Write the tables of an audit, `tables/audit*`, under a folder.

    Returns:
        The paths written.

    Raises:
        InputError: a file can't be written; those written before it stay.
    """
    return _write(_files_of(audited_tables(audit)), folder)


def write_verdict(
    verdict: Verdict,
    title: str,
    folder: Path,
    notices: tuple[str, ...] = (),
    further: Sequence[Table] = (),
) -> list[Path]:
    """Write the tables and figures of a verdict under a folder.

    Tables are `verdict`, `robust`, `checks`, `relative` and `costs`, under `tables/`; figures are
    `figures/figure5_matched.*` and `figure6_relative.*`.

    Args:
        verdict: the verdict.
        title: the title of the tables.
        folder: the folder.
        notices: lines above the figures.
        further: other tables, which are written as well.

    Returns:
        The paths written, tables first.

    Raises:
        InputError: a file can't be written; those written before it stay.
    """
    tables = (*judged_tables(verdict, title), *further)
    return _write(chain(_files_of(tables), _verdict_files(verdict, notices)), folder)


def write_grid(grid: GridResults, folder: Path) -> list[Path]:
    """Write the tables of a grid, `tables/grid.*`, `runs.*` and those of its verdict, and `figures/grid.*`.

    All are under a folder.

    Returns:
        The paths written, tables first.

    Raises:
        InputError: a file can't be written; those written before it stay.
    """
    return _write(chain(_files_of(grid_tables(grid)), _grid_files(grid)), folder)


def write_report(study: StudyResults, folder: Path) -> list[Path]:
    """Write `tables/*.md|csv|tex`, `figures/*.png|pdf` and the figures' captions under a folder.

    Existing files are replaced, one at a time.

    Returns:
        The paths written, tables first.

    Raises:
        InputError: a file can't be written; those written before it stay.
    """
    return _write(chain(_files_of(tables(study)), _figure_files(study)), folder)


def _write(files: Iterable[tuple[str, bytes]], folder: Path) -> list[Path]:
    written = []
    for name, content in files:
        path = Path(folder) / name
        write_recorded(Path(folder), path, content)
        written.append(path)
    return written


def _files_of(to_write: Iterable[Table]) -> Iterator[tuple[str, bytes]]:
    for table in to_write:
        for suffix, render in (("md", to_markdown), ("csv", to_csv), ("tex", to_latex)):
            yield f"tables/{table.name}.{suffix}", render(table).encode()


def _verdict_files(verdict: Verdict, notices: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    return _drawn_files(verdict_figures(verdict, notices))


def _grid_files(grid: GridResults) -> Iterator[tuple[str, bytes]]:
    return _drawn_files(grid_figures(grid))


def _figure_files(study: StudyResults) -> Iterator[tuple[str, bytes]]:
    # These first: they may be drawn on another thread at the moment, and two threads mustn't draw at the same time.
    peaks = peak_figures()
    yield from peaks.items()
    yield from _drawn_files(report_figures(study))
    yield "figures/captions.md", figure_captions(study).encode()


def _drawn_files(figures: Iterable[tuple[str, "Figure"]]) -> Iterator[tuple[str, bytes]]:
    from nearzero.report.figures.style import figure_files

    for name, figure in figures:
        yield from figure_files(f"figures/{name}", figure).items()


def report_figures(study: StudyResults) -> Iterator[tuple[str, "Figure"]]:
    """Yield the figures that are drawn from a study's responses, with the names of their files."""
    from nearzero.report.figures.agreement import agreement_figure
    from nearzero.report.figures.response import response_figure

    yield "figure1_response", response_figure(study)
    yield "figure4_agreement", agreement_figure(study)


def verdict_figures(verdict: Verdict, notices: tuple[str, ...] = ()) -> Iterator[tuple[str, "Figure"]]:
    """Yield the figures of a verdict, with the names of their files."""
    from nearzero.report.figures.matched import matched_figure
    from nearzero.report.figures.relative import relative_figure

    yield "figure5_matched", matched_figure(verdict, notices)
    yield "figure6_relative", relative_figure(verdict, planted_bands(verdict), notices)


def grid_figures(grid: GridResults) -> Iterator[tuple[str, "Figure"]]:
    """Yield the figure of a grid, with the name of its files."""
    from nearzero.report.figures.grid import grid_figure

    yield "grid", grid_figure(grid)
