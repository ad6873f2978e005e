"""Commands for data sets: fetch, list, verify."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nearzero.cli.common import AsJson, DataDir, app, argument, complete_data, examples, the_console, working
from nearzero.cli.output import finish

if TYPE_CHECKING:
    from nearzero.datasets.loading import FileStatus
    from nearzero.report.table import Number

__all__ = ()  # the functions are registered with the app

data_app = typer.Typer(help="Fetch, list and verify data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command("fetch", epilog=examples("nearzero data fetch", "nearzero data fetch kmnist digits"))
def data_fetch(
    names: Annotated[
        list[str] | None, argument("[NAME]...", "The data sets.", "mnist", complete_data)
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Put the files of data sets into the cache, and check them."""
    console, wanted = the_console(), names or ["mnist"]
    with working(console, "fetching") as show_work:
        from nearzero.datasets import fetch

        for name in wanted:
            show_work(f"fetching {name}")
            for file in fetch(name, data_dir=data_dir, report=console.print):
                console.print(f"{name}: {file.name} from {file.source}", highlight=False)
    following = "nearzero reproduce" + ("" if wanted == ["mnist"] else f" --set data={wanted[-1]}")
    finish(console, lines=[f"{', '.join(wanted)}: here, and checked; next: {following}"])


@data_app.command("list", epilog=examples("nearzero data list", "nearzero data list --json"))
def data_list(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the data sets that nearzero knows, and say which of them are here, where, and how large."""
    console = the_console(stderr=as_json)
    with working(console, "looking for data sets"):
        from nearzero.datasets import entries, verify
        from nearzero.report.table import Column, Table

        files = {entry.name: verify(entry.name, data_dir=data_dir) for entry in entries()}
        here = {name: _here(own) for name, own in files.items()}
        columns = (
            *(Column(name, name, kind="text") for name in ("name", "here")),
            Column("size", "size, MB", "size\nMB", unit="megabytes"),
            Column("where", "where", kind="text"),
            Column("description", "description", kind="text", spare=1),
        )
        rows = tuple(
            (entry.name, here[entry.name], *_place(files[entry.name]), entry.description)
            for entry in entries()
        )
    missing = [name for name, state in here.items() if state != "yes"]
    line = f"{len(here) - len(missing)} of {len(here)} data sets are here"
    line += f"; next: nearzero data fetch {' '.join(missing)}" if missing else ""
    finish(console, [Table("data", "", "", columns, rows, group="")], [line], as_json=as_json)


def _place(files: Sequence[FileStatus]) -> tuple[Number | None, str | None]:
    """Return how large the files of a data set are, if they are files, and in which folders or package they are."""
    from nearzero.report.table import Number

    there = [file for file in files if file.status != "missing"]
    paths = [Path(file.where) for file in there if Path(file.where).is_file()]
    size = sum(path.stat().st_size for path in paths)
    places = (
        dict.fromkeys(str(path.parent) for path in paths)
        if paths
        else dict.fromkeys(file.where for file in there)
    )
    return Number(size / 1e6, 1) if paths else None, ", ".join(places) or None


def _here(files: Sequence[FileStatus]) -> str:
    """Return whether all files of a data set are present: "yes", "no", or what is the matter."""
    counts = Counter(file.status for file in files)
    if len(counts) == 1:
        status = files[0].status
        return {"present": "yes", "missing": "no"}.get(status, status)
    return ", ".join(f"{count} {status}" for status, count in counts.items())


@data_app.command("verify", epilog=examples("nearzero data verify", "nearzero data verify mnist"))
def data_verify(
    name: Annotated[
        str | None, argument("name", "One data set; all if it is left out.", complete=complete_data)
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Check every file against its SHA-256; exit code 2 if one is wrong."""
    console = the_console(stderr=as_json)
    with working(console, "reading the files"):
        from nearzero.datasets import verify
        from nearzero.report.table import text_table

        files = verify(name, data_dir=data_dir)
    rows = [
        {
            "data set": file.dataset,
            "file": file.file,
            "status": file.status,
            "detail": file.detail if as_json else _shortened(file.detail),
        }
        for file in files
    ]
    counts = Counter(file.status for file in files)
    line = ", ".join(
        f"{count} {'file' if count == 1 else 'files'} {status}" for status, count in counts.items()
    )
    missing = dict.fromkeys(file.dataset for file in files if file.status != "present")
    line += f"; next: nearzero data fetch {' '.join(missing)}" if missing else ""
    caption = "Of a SHA-256, the first 12 digits; --json has all of them."
    finish(console, [text_table("files", rows, "", caption)], [line], as_json=as_json)
    if any(file.status in ("wrong hash", "unreadable") for file in files):
        raise typer.Exit(2)


def _shortened(detail: str) -> str:
    """Return a file's detail with the first 12 digits of its SHA-256, so that a row fits into 80 columns."""
    return re.sub(r"(SHA-256 [0-9a-f]{12})[0-9a-f]+", r"\1", detail)
