"""Functions for the scripts that make the pages of `docs/` from kept results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from nearzero.report.render import to_markdown
from nearzero.report.table import Table

__all__ = ["kept_table", "read", "table_of", "write_or_check"]


def read(path: Path) -> str:
    """Return the text of a file without the blank lines at its ends."""
    return path.read_text(encoding="utf-8").strip()


def kept_table(path: Path) -> str:
    """Return a table that was written as Markdown; its heading without the study, which the page names once."""
    return re.sub(r"^(## [^:\n]*):.*", r"\1", read(path), count=1)


def table_of(table: Table) -> str:
    """Return a table in Markdown without its heading."""
    return re.sub(r"^## .*\n+", "", to_markdown(table)).strip()


def write_or_check(page: Path, content: str, kept: Path, arguments: Sequence[str]) -> int:
    """Write the page if `--write` is among the arguments, else compare it and print; return the exit status."""
    if "--write" in arguments:
        page.write_text(content, encoding="utf-8")
        return 0
    fresh = page.is_file() and page.read_text(encoding="utf-8") == content
    print(f"{page} {'agrees' if fresh else 'does NOT agree'} with {kept}")
    return 0 if fresh else 1
