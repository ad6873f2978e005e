"""Make the page in a study's folder anew once the folder holds something that it doesn't show."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from nearzero.page.document import RUNS
from nearzero.study.journal import Journal
from nearzero.study.page.contents import POWER
from nearzero.study.store import GROUPS, PAGE, SPEC
from nearzero.study.study import Study

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["is_outdated", "renew_page"]

SHOWN = (SPEC, POWER, *dict.fromkeys(name for name, _ in GROUPS.values()))


def is_outdated(folder: Path) -> bool:
    """Return whether a folder has a page, and one of the files that a page shows was written after it."""
    page = folder / PAGE
    files = (folder / name for name in SHOWN)
    return page.is_file() and any(
        path.stat().st_mtime_ns > page.stat().st_mtime_ns for path in files if path.is_file()
    )


def renew_page(study: Study, *, data_dir: str | None = None, console: Console | None = None) -> None:
    """Make the page in a study's folder anew, with the same runs, if there is one and it is outdated.

    Args:
        study: the study.
        data_dir, console: as for `Study.train`.

    Raises:
        InputError: as `Study.to_html`.
    """
    if not is_outdated(study.folder):
        return
    page = study.folder / PAGE
    runs = _runs(page.read_text(encoding="utf-8", errors="replace"))
    with (
        Journal.opened(console, study.folder / "log") as journal,
        journal.timed("page written", "making the page"),
    ):
        study.to_html(page, runs=runs, data_dir=data_dir)


def _runs(page: str) -> list[int] | None:
    """Return the runs that were named for a page; None if none was.

    Example:
        >>> from nearzero.study.page.renew import _runs
        >>> _runs('<meta name="nearzero-runs" content="0 3">'), _runs("<p>nearzero page studies/quick --runs 5</p>")
        ([0, 3], None)
    """
    found = re.search(rf'<meta name="{RUNS}" content="([0-9 ]{{1,999}})">', page)
    return None if found is None else [int(number) for number in found[1].split()] or None
