"""The app, shared options, and the console of the commands."""

from __future__ import annotations

import os
import re
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

WIDEST = 10_000  # columns

app = typer.Typer(
    name="nearzero",
    help="Do hidden units measure distance or intensity? Perturb them, and see.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def option(words: str, shown: bool | str = False, *names: str, metavar: str | None = None) -> Any:
    """Return the description of an option.

    Args:
        words: the help text.
        shown: the default in the help: False for none, True for the parameter's own, or a text.
        names: names of the option, if they aren't the parameter's.
        metavar: the word for its value in the help.
    """
    return typer.Option(*names, help=words, show_default=shown, metavar=metavar)


def argument(metavar: str, words: str, shown: bool | str = False) -> Any:
    """Return the description of an argument: its name and text in the help; `shown` as for `option`."""
    return typer.Argument(metavar=metavar, help=words, show_default=shown)


StudyFolder = Annotated[Path, argument("STUDY", "A study's folder.")]
DataDir = Annotated[str | None, option("A folder with the data files; also NEARZERO_DATA.")]
Settings = Annotated[
    list[str] | None, option("Any key of the spec; may be repeated.", False, "--set", metavar="KEY=VALUE")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


class Interrupted(Exception):
    """An interruption of a command that can't continue later; its message is for the user."""


def console_for(quiet: bool) -> Console | None:
    """Return the console, or None if nothing should be printed."""
    return None if quiet else the_console()


def the_console() -> Console:
    """Return the console for standard output."""
    from rich.console import Console

    given = os.environ.get("COLUMNS", "")
    width = min(int(given), WIDEST) if re.fullmatch("[0-9]{1,9}", given) else 0
    if not width:
        os.environ.pop("COLUMNS", None)  # which rich reads too
    # tables need some 110 columns; a file or a pipe has no width of its own; brackets in paths aren't markup
    return Console(width=width or (None if sys.stdout.isatty() else 120), markup=False)


def print_rows(console: Console, headings: Iterable[str | Column], rows: Iterable[Iterable[str]]) -> None:
    """Print a table without borders."""
    from rich.table import Table

    table = Table(*headings, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def settings_from(pairs: list[str] | None) -> dict[str, Any]:
    """Return the settings of all `--set` options."""
    from nearzero.study.spec import parse_setting

    return dict(parse_setting(pair) for pair in pairs or [])


@contextmanager
def result_folder(out: Path | None) -> Iterator[None]:
    """Make the folder for a result before the work, so that errors come early; remove it after a failure."""
    from nearzero.support.files import make_folder

    made = [folder for folder in (out, *out.parents) if not folder.exists()] if out is not None else []
    if out is not None:
        make_folder(out)
    try:
        yield
    except BaseException:
        for folder in made:
            folder.rmdir()
        raise


@contextmanager
def counting(console: Console | None, doing: str, things: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that adds to the number of things that are done, which a terminal shows."""
    if console is None or not console.is_terminal:
        yield lambda more: None
        return
    done = 0
    with console.status(doing) as status:

        def count(more: int) -> None:
            nonlocal done
            done += more
            status.update(f"{doing}: {done:,} {things}")

        yield count


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Do hidden units measure distance or intensity? Perturb them, and see."""
    if version:
        from importlib.metadata import version as version_of

        print(f"nearzero {version_of('nearzero')}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
