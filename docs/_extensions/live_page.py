"""The interactive page of the kept study, made when the site is built, at `paper_study.html` beside its pages.

A page says `<!-- live page -->` where a link to it belongs. The page needs MNIST: from the cache, or fetched. Where
MNIST can't be had, a page that says so stands in its place, and the build prints the same.
"""

from __future__ import annotations

import contextlib
import os
import sys
from html import escape
from pathlib import Path

from sphinx.application import Sphinx

import nearzero as nz

__all__ = ["setup"]

ROOT = Path(__file__).parents[2]
STUDY = "results/paper"
FILE = "paper_study.html"
LINK = (
    f'<p class="live-page"><a href="{FILE}">Open the interactive page of the paper’s study</a> '
    "(7 MB, needs no network): its answer, its curves and tables, and its units to perturb.</p>"
)
MISSING = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Not made: the page of the paper's study</title>
<body style="font-family: sans-serif; max-width: 40em; margin: 4em auto">
<h1>This page wasn't made</h1>
<p>{reason}</p>
<p>Run <code>nearzero data fetch mnist</code>, then <code>make docs</code>.
<code>nearzero page {study}</code> makes the page alone. <a href="index.html">Back to the documentation</a></p>
"""


def link(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the link into a page of the site's first level."""
    source[0] = source[0].replace("<!-- live page -->", LINK)


def is_current(page: Path) -> bool:
    """Return whether the page is newer than the study and the code that it is made from."""
    sources = (path for folder in (STUDY, "src") for path in (ROOT / folder).rglob("*.*"))
    kept = [path for path in sources if path.is_file() and path.suffix not in (".pyc", "")]
    return page.is_file() and page.stat().st_mtime > max(path.stat().st_mtime for path in kept)


def make(app: Sphinx, error: Exception | None) -> None:
    """Write the page into the site, unless it is there."""
    page = Path(app.outdir) / FILE
    if error is not None or app.builder.name != "html" or is_current(page):
        return
    try:
        with contextlib.chdir(ROOT):  # the page names the study by this path
            nz.Study.open(STUDY).to_html(page)
    except nz.datasets.NotFoundError as missing:
        page.unlink(missing_ok=True)
        page.write_text(MISSING.format(reason=escape(str(missing)), study=STUDY), encoding="utf-8")
        os.utime(page, (0, 0))  # the next build tries again
        print(f"{FILE} wasn't made: {missing}", file=sys.stderr)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the events."""
    app.connect("source-read", link)
    app.connect("build-finished", make)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
