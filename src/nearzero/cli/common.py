"""The app, shared options, and the console of the commands."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nearzero.support.memory import check_address_space

if TYPE_CHECKING:
    from rich.console import Console

    from nearzero.support.workers import Workers

__all__ = [
    "BEGINS_ANEW",
    "AsJson",
    "DaskAddress",
    "DataDir",
    "Interrupted",
    "Plan",
    "Quiet",
    "Settings",
    "StudyFolder",
    "WorkerCount",
    "app",
    "argument",
    "complete_data",
    "complete_family",
    "complete_files",
    "complete_preset",
    "complete_result",
    "complete_study",
    "console_for",
    "counting",
    "examples",
    "option",
    "result_folder",
    "settings_from",
    "the_console",
    "workers_for",
    "working",
]

BEGINS_ANEW = "interrupted; nothing is kept, the same command begins anew"
WIDEST = 10_000  # columns
DEEPEST = 4  # folders that are searched, from the one in which a completed path begins

app = typer.Typer(
    name="nearzero",
    help="Do hidden units measure distance or intensity? Perturb them, and see.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


Completion = Callable[[str], list[str]]  # takes the beginning of a word, and returns words


def option(
    words: str,
    shown: bool | str = False,
    *names: str,
    metavar: str | None = None,
    complete: Completion | None = None,
) -> Any:
    """Return the description of an option.

    Args:
        words: the help text.
        shown: the default in the help: False for none, True for the parameter's own, or a text.
        names: names of the option, if they aren't the parameter's.
        metavar: the word for its value in the help.
        complete: the words by which the shell completes its value; files if None, or if there is no such word.
    """
    return typer.Option(*names, help=words, show_default=shown, metavar=metavar, autocompletion=complete)


def argument(metavar: str, words: str, shown: bool | str = False, complete: Completion | None = None) -> Any:
    """Return the description of an argument: its name and text in the help; the others as for `option`."""
    return typer.Argument(metavar=metavar, help=words, show_default=shown, autocompletion=complete)


def complete_data(incomplete: str) -> list[str]:
    """Return the names of data sets that begin so."""
    from nearzero.datasets.registry import names

    return [name for name in names() if name.startswith(incomplete)]


def complete_family(incomplete: str) -> list[str]:
    """Return the names of families that begin so."""
    from nearzero.perturbations.families import FAMILIES

    return [name for name in FAMILIES if name.startswith(incomplete)]


def complete_preset(incomplete: str) -> list[str]:
    """Return the names of presets that begin so."""
    return [name for name in ("quick", "paper") if name.startswith(incomplete)]


def complete_files(*names: str, folders: bool) -> Completion:
    """Return a function for files of these names (globs), three folders deep, or for the folders that hold them."""

    def complete(incomplete: str) -> list[str]:
        start = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
        found = (
            path for name in names for depth in range(DEEPEST) for path in start.glob("*/" * depth + name)
        )
        paths = {str(path.parent if folders else path) for path in found}
        return sorted(path for path in paths - {"."} if path.startswith(incomplete))

    return complete


complete_study = complete_files("spec.toml", folders=True)
complete_result = complete_files("spec.toml", "grid.toml", "probe.nc", folders=True)
StudyFolder = Annotated[Path, argument("STUDY", "A study's folder.", complete=complete_study)]
DataDir = Annotated[str | None, option("A folder with the data files; also NEARZERO_DATA.")]
Settings = Annotated[
    list[str] | None, option("Any key of the spec; may be repeated.", False, "--set", metavar="KEY=VALUE")
]
WorkerCount = Annotated[int | None, option("Do the work in so many processes on this machine.", metavar="N")]
DaskAddress = Annotated[
    str | None,
    option("Do the work on the workers of this Dask scheduler.", False, "--dask", metavar="ADDRESS"),
]
Plan = Annotated[
    bool, typer.Option("--plan", help="Only say what would be done, and about what it takes. Writes nothing.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print all tables as JSON, for scripts; progress goes to standard error."),
]


def examples(*commands: str) -> str:
    """Return the end of a command's help: examples of its use, one in a line."""
    return "\n\n".join(("Examples:", *(f"  {command}" for command in commands)))


class Interrupted(Exception):
    """An interruption of a command that can't continue later; its message is for the user."""


def console_for(quiet: bool, as_json: bool = False) -> Console | None:
    """Return the console, or None if nothing should be printed; that of standard error if JSON is printed."""
    return None if quiet else the_console(stderr=as_json)


def the_console(*, stderr: bool = False) -> Console:
    """Return the console for standard output, or for standard error."""
    from rich.console import Console

    from nearzero.cli.printable import Printable

    given = os.environ.get("COLUMNS", "")
    width = min(int(given), WIDEST) if re.fullmatch("[0-9]{1,9}", given) else 0
    if not width:
        os.environ.pop("COLUMNS", None)  # which rich reads too
    # tables need some 110 columns; a file or a pipe has no width of its own; brackets in paths aren't markup
    stream = sys.stderr if stderr else sys.stdout
    console = Console(width=width or (None if stream.isatty() else 120), stderr=stderr, markup=False)
    console.push_render_hook(Printable())
    return console


def settings_from(pairs: list[str] | None) -> dict[str, Any]:
    """Return the settings of all `--set` options."""
    from nearzero.study.spec import parse_setting

    return dict(parse_setting(pair) for pair in pairs or [])


@contextmanager
def workers_for(console: Console | None, count: int | None, dask: str | None) -> Iterator[Workers]:
    """Yield the workers that `--workers` or `--dask` asks for; this process if neither is given.

    Raises:
        InputError: both are given, the count can't be used, or no scheduler answers.
    """
    from nearzero.errors import InputError
    from nearzero.support.workers import HERE, Workers, dask_executor, local_processes

    if count is not None and dask is not None:
        raise InputError("give either --workers, for processes on this machine, or --dask, for a scheduler")
    if count is not None:
        if count < 1:
            raise InputError(f"--workers must be at least 1; got {count}")
        with local_processes(count) as pool:
            yield Workers(pool)
    elif dask is not None:
        with dask_executor(dask) as (executor, number):
            if not number and console is not None:
                console.print(f"the scheduler at {dask} has no workers yet; the work waits for them")
            yield Workers(executor)
    else:
        yield HERE


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
def working(console: Console | None, doing: str) -> Iterator[Callable[[str], None]]:
    """Show what is being done, and for how long, while the block runs; yield a function that changes the words.

    Args:
        console: that of the command; None shows nothing.
        doing: what is being done.
    """
    if console is None:
        yield lambda words: None
        return
    from nearzero.support.progress import activity

    with activity(console, doing) as change:
        yield change


@contextmanager
def counting(console: Console | None, doing: str) -> Iterator[Callable[[int], None]]:
    """Show how many things are done, as `working`; yield a function that adds to their number."""
    if console is None:
        yield lambda more: None
        return
    from nearzero.support.progress import progress_bar

    done = 0
    with progress_bar(console, doing, vanishes=True) as report:

        def count(more: int) -> None:
            nonlocal done
            done += more
            report(done, None)

        yield count


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"nearzero {version('nearzero')}")
        raise typer.Exit


@app.callback(
    invoke_without_command=True,
    epilog=examples(
        "nearzero reproduce                                    the paper's study, in a minute or two",
        "nearzero layers net.py:Net --data mnist               what can be probed in a model of yours",
        "nearzero probe net.py:Net --data mnist --out probed   perturb its layers",
        "nearzero --install-completion                         complete commands and options with Tab",
    ),
)
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Do hidden units measure distance or intensity? Perturb them, and see."""
    if context.invoked_subcommand is None:
        print(context.get_help())
    else:
        check_address_space()
