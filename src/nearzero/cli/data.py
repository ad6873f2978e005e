"""Commands about data sets."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from nearzero.cli.common import DataDir, app, console_for

__all__ = ["data_app"]

data_app = typer.Typer(help="Fetch, list and verify data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command("fetch")
def data_fetch(
    names: Annotated[Optional[list[str]], typer.Argument(metavar="[NAME]...", show_default="mnist")] = None,  # noqa: UP045
    data_dir: DataDir = None,
) -> None:
    """Put the files of data sets into the cache, checked."""
    from nearzero.datasets import fetch

    console = console_for()
    assert console is not None
    for name in names or ["mnist"]:
        for file in fetch(name, data_dir=data_dir, report=console.print):
            console.print(f"{name}: {file.name} from {file.source}", highlight=False)


@data_app.command("list")
def data_list() -> None:
    """List the data sets that nearzero knows."""
    from rich.table import Table

    from nearzero.datasets import entries

    table = Table("name", "what it is", box=None, pad_edge=False)
    for entry in entries():
        table.add_row(entry.name, entry.description)
    console = console_for()
    assert console is not None
    console.print(table)


@data_app.command("verify")
def data_verify(
    name: Annotated[
        str | None, typer.Argument(help="One data set; all, unless given.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Check every file against its SHA-256; exit code 2 if one is wrong."""
    from rich.table import Table

    from nearzero.datasets import verify

    rows = verify(name, data_dir=data_dir)
    table = Table("data set", "file", "status", "detail", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row.dataset, row.file, row.status, row.detail)
    console = console_for()
    assert console is not None
    console.print(table)
    if any(row.status in ("wrong hash", "unreadable") for row in rows):
        raise typer.Exit(2)
