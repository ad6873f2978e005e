"""What the commands share: the app, the options that several of them have, the console."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column

__all__ = [
    "DataDir",
    "Interrupted",
    "Quiet",
    "Settings",
    "StudyFolder",
    "app",
    "argument",
    "console_for",
    "counting",
    "option",
    "print_rows",
    "result_folder",
    "settings_from",
    "the_console",
]

app = typer.Typer(
    name="nearzero",
    help="Do hidden units measure distance or intensity? Perturb them, and see.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def option(words: str, shown: bool | str = False, *names: str, metavar: str | None = None) -> Any:
    """Describe an option: what it is, what stands for its default, and names in place of the parameter's."""
    return typer.Option(*names, help=words, show_default=shown, metavar=metavar)


def argument(metavar: str, words: str, shown: bool | str = False) -> Any:
    """Describe an argument: what it's called, what it is, and what stands for its default."""
    return typer.Argument(metavar=metavar, help=words, show_default=shown)


StudyFolder = Annotated[Path, argument("STUDY", "A study's folder.")]
DataDir = Annotated[str | None, option("A folder with the data files; also NEARZERO_DATA.")]
Settings = Annotated[
    list[str] | None, option("Any key of the spec; may be repeated.", False, "--set", metavar="KEY=VALUE")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


class Interrupted(Exception):
    """An interruption of a command that doesn't go on where it was; the message is for the user."""


def console_for(quiet: bool) -> Console | None:
    """Where to print; None if nothing is to be printed."""
    return None if quiet else the_console()


def the_console() -> Console:
    """Where to print."""
    from rich.console import Console

    width = int(os.environ["COLUMNS"]) if os.environ.get("COLUMNS", "").isdigit() else None
    # tables need some 110 columns; what isn't a terminal (a file, a pipe) has no width of its own
    return Console(width=width or (None if sys.stdout.isatty() else 120))


def print_rows(console: Console, headings: Iterable[str | Column], rows: Iterable[Iterable[str]]) -> None:
    """Print a table without lines."""
    from rich.table import Table

    table = Table(*headings, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def settings_from(pairs: list[str] | None) -> dict[str, Any]:
    """The settings of `--set`, as a mapping."""
    from nearzero.study.spec import parse_setting

    return dict(parse_setting(pair) for pair in pairs or [])


@contextmanager
def result_folder(out: Path | None) -> Iterator[None]:
    """Make the folder of a result before the work, to know that it can be; gone again if that fails."""
    from nearzero.support.files import make_folder

    made = [each for each in (out, *out.parents) if not each.exists()] if out is not None else []
    if out is not None:
        make_folder(out)
    try:
        yield
    except BaseException:
        for each in made:
            each.rmdir()
        raise


@contextmanager
def counting(console: Console | None, what: str, things: str) -> Iterator[Callable[[int], None]]:
    """Show a line that says how many things are done, on a terminal; elsewhere nothing."""
    if console is None or not console.is_terminal:
        yield lambda more: None
        return
    done = 0
    with console.status(what) as status:

        def count(more: int) -> None:
            nonlocal done
            done += more
            status.update(f"{what}: {done:,} {things}")

        yield count


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Do hidden units measure distance or intensity? Perturb them, and see."""
    if version:
        from importlib.metadata import version as version_of

        print(f"nearzero {version_of('nearzero')}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
