"""Commands for data sets: fetch, list, verify."""

from __future__ import annotations

from typing import Annotated

import typer

from nearzero.cli.common import DataDir, app, argument, print_rows, the_console

__all__ = ()  # the functions are registered with the app

data_app = typer.Typer(help="Fetch, list and verify data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command("fetch")
def data_fetch(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", show_default="mnist")] = None,
    data_dir: DataDir = None,
) -> None:
    """Put the files of data sets into the cache, and check them."""
    from nearzero.datasets import fetch

    console = the_console()
    for name in names or ["mnist"]:
        for file in fetch(name, data_dir=data_dir, report=console.print):
            console.print(f"{name}: {file.name} from {file.source}", highlight=False)


@data_app.command("list")
def data_list() -> None:
    """List the data sets that nearzero knows."""
    from nearzero.datasets import entries

    rows = [(entry.name, entry.description) for entry in entries()]
    print_rows(the_console(), ("name", "description"), rows)


@data_app.command("verify")
def data_verify(
    name: Annotated[str | None, argument("name", "One data set; all if it is left out.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Check every file against its SHA-256; exit code 2 if one is wrong."""
    from nearzero.datasets import verify

    files = verify(name, data_dir=data_dir)
    rows = [(file.dataset, file.file, file.status, file.detail) for file in files]
    print_rows(the_console(), ("data set", "file", "status", "detail"), rows)
    if any(file.status in ("wrong hash", "unreadable") for file in files):
        raise typer.Exit(2)
