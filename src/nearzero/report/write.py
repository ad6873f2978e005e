"""Puts a report on disk and on the screen: the only module of `report` that writes anything.

Every file is whole or not there (`nearzero.files`), and tables come before figures. Matplotlib and rich are
imported where they are needed: reading numbers from a report needs neither.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from nearzero.files import make_folder, write_bytes
from nearzero.report.captions import figure_captions
from nearzero.report.render import to_csv, to_latex, to_markdown
from nearzero.report.results import StudyResults
from nearzero.report.tables import tables

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_tables", "write_report"]


def write_report(study: StudyResults, folder: Path) -> list[Path]:
    """Write `tables/*.md|csv|tex`, `figures/*.png|pdf` and the figures' captions under a folder.

    Files that are there already are replaced, one at a time.

    Returns:
        The paths written, tables first.

    Raises:
        InputError: where a file can't be written; those before it stay.
    """
    written = []
    for name, content in chain(_table_files(study), _figure_files(study)):
        path = Path(folder) / name
        make_folder(path.parent)
        write_bytes(path, content)
        written.append(path)
    return written


def print_tables(study: StudyResults, console: "Console") -> None:
    """Print every table to a rich console; the last says how many rows agree with the paper."""
    from nearzero.report.render.terminal import print_table

    for table in tables(study):
        print_table(table, console)


def _table_files(study: StudyResults) -> Iterator[tuple[str, bytes]]:
    for table in tables(study):
        for suffix, render in (("md", to_markdown), ("csv", to_csv), ("tex", to_latex)):
            yield f"tables/{table.name}.{suffix}", render(table).encode()


def _figure_files(study: StudyResults) -> Iterator[tuple[str, bytes]]:
    from nearzero.report import figures

    drawn = {
        "figure1_response": figures.response_figure(study),
        "figure2_activations": figures.activations_figure(),
        "figure3_offsets": figures.offsets_figure(),
        "figure4_agreement": figures.agreement_figure(study),
    }
    for name, figure in drawn.items():
        yield f"figures/{name}.png", figures.png_bytes(figure)
        yield f"figures/{name}.pdf", figures.pdf_bytes(figure)
    yield "figures/captions.md", figure_captions(study).encode()
