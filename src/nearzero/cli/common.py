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

if TYPE_CHECKING:
    from rich.console import Console

    from nearzero.support.workers import Workers

__all__ = [
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

WIDEST = 10_000  # columns

app = typer.Typer(
    name="nearzero",
    help="Do hidden units measure distance or intensity? Perturb them, and see.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


SAY_EVERY = 1.5  # seconds between two lines about work in progress


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

    given = os.environ.get("COLUMNS", "")
    width = min(int(given), WIDEST) if re.fullmatch("[0-9]{1,9}", given) else 0
    if not width:
        os.environ.pop("COLUMNS", None)  # which rich reads too
    # tables need some 110 columns; a file or a pipe has no width of its own; brackets in paths aren't markup
    stream = sys.stderr if stderr else sys.stdout
    return Console(width=width or (None if stream.isatty() else 120), stderr=stderr, markup=False)


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
def working(console: Console | None, doing: str, *, lines: bool = False) -> Iterator[Callable[[str], None]]:
    """Show in a terminal what is being done, and for how long, while the block runs.

    Args:
        console: where it is shown; nowhere if None.
        doing: what is being done; the function that is yielded changes it.
        lines: whether a line says it every second or two where there is no terminal.
    """
    if console is None or not (lines or console.is_terminal):
        yield lambda doing: None
        return
    if not console.is_terminal:
        with _saying(console, doing) as change:
            yield change
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    # what a user's own code prints must stay on its stream
    with Progress(
        *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda doing: bar.update(task, description=doing)


@contextmanager
def _saying(console: Console, doing: str) -> Iterator[Callable[[str], None]]:
    """Print a line at once and then at regular times, from a thread, until the block ends."""
    import threading
    import time

    began, ended = time.monotonic(), threading.Event()

    def change(words: str) -> None:
        nonlocal doing
        doing = words

    def say() -> None:
        console.print(doing, highlight=False, markup=False)
        while not ended.wait(SAY_EVERY):
            console.print(f"{doing} ({time.monotonic() - began:.0f} s)", highlight=False, markup=False)
            console.file.flush()

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield change
    finally:
        ended.set()
        thread.join()


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
