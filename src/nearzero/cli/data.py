"""Commands for data sets: fetch, list, verify."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from nearzero.cli.common import AsJson, DataDir, app, argument, examples, the_console
from nearzero.cli.output import finish

if TYPE_CHECKING:
    from nearzero.datasets.loading import FileStatus

__all__ = ()  # the functions are registered with the app

data_app = typer.Typer(help="Fetch, list and verify data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command("fetch", epilog=examples("nearzero data fetch", "nearzero data fetch kmnist digits"))
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


@data_app.command("list", epilog=examples("nearzero data list", "nearzero data list --json"))
def data_list(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the data sets that nearzero knows, and say which of them are here."""
    from nearzero.datasets import entries, verify
    from nearzero.report.table import text_table

    here = {entry.name: _here(verify(entry.name, data_dir=data_dir)) for entry in entries()}
    rows = [
        {"name": entry.name, "here": here[entry.name], "description": entry.description}
        for entry in entries()
    ]
    missing = [name for name, state in here.items() if state != "yes"]
    line = f"{len(here) - len(missing)} of {len(here)} data sets are here"
    line += f"; next: nearzero data fetch {' '.join(missing)}" if missing else ""
    finish(the_console(), [text_table("data", rows)], [line], as_json=as_json)


def _here(files: Sequence[FileStatus]) -> str:
    """Return whether all files of a data set are present: "yes", "no", or what is the matter."""
    counts = Counter(file.status for file in files)
    if len(counts) == 1:
        status = files[0].status
        return {"present": "yes", "missing": "no"}.get(status, status)
    return ", ".join(f"{count} {status}" for status, count in counts.items())


@data_app.command("verify", epilog=examples("nearzero data verify", "nearzero data verify mnist"))
def data_verify(
    name: Annotated[str | None, argument("name", "One data set; all if it is left out.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Check every file against its SHA-256; exit code 2 if one is wrong."""
    from nearzero.datasets import verify
    from nearzero.report.table import text_table

    files = verify(name, data_dir=data_dir)
    rows = [
        {"data set": file.dataset, "file": file.file, "status": file.status, "detail": file.detail}
        for file in files
    ]
    counts = Counter(file.status for file in files)
    line = ", ".join(f"{count} files {status}" for status, count in counts.items())
    finish(the_console(), [text_table("files", rows)], [line], as_json=as_json)
    if any(file.status in ("wrong hash", "unreadable") for file in files):
        raise typer.Exit(2)
