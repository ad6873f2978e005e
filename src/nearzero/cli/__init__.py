"""The command line: parse, call, print.

An error of the user ends in one line on standard error and exit code 2. Heavy modules are imported inside of
the commands that need them. The commands are in `studies`, `models` and `data`.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import TextIOWrapper

import typer

from nearzero.cli import data, generation, models, pages, studies
from nearzero.cli.common import Interrupted, app
from nearzero.cli.interruption import noticing_interruptions
from nearzero.errors import InputError, one_line
from nearzero.support.memory import is_out_of_memory
from nearzero.support.progress import printing_lines

__all__ = ["app", "data", "generation", "main", "models", "pages", "studies"]

INTERRUPTED = "interrupted; the same command goes on where it was"


def main() -> None:
    """Run the command line. An error of the user ends in one line and exit code 2, Ctrl-C in one and 130."""
    _prepare_streams()
    with noticing_interruptions() as interrupted:
        code = _run(interrupted)
    sys.exit(code)


def _run(interrupted: list[bool]) -> int:
    """Run the command, print the line of its error, and return the exit code."""
    try:
        _check_working_folder()
        with printing_lines():
            code = app(prog_name="nearzero", standalone_mode=False)
        if interrupted:  # typer turns the exception into an exit code
            raise KeyboardInterrupt
    except (Exception, KeyboardInterrupt) as error:
        line, code = _explain(error, bool(interrupted))
        with suppress(OSError):  # of a full disk, or a pipe that is closed
            print("nearzero: " + " ".join(one_line(line).split()), file=sys.stderr, flush=True)
    return code if isinstance(code, int) else 0


def _prepare_streams() -> None:
    """Make the streams write anything: signs that their encoding lacks as "?", and to nowhere if they are closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (until the process ends)
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _check_working_folder() -> None:
    """Refuse a working folder that was removed: paths and libraries fail in it, each in its own way.

    Raises:
        InputError: it was removed.
    """
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise InputError("the working folder was removed; change to a folder that exists") from error


def _explain(error: BaseException, interrupted: bool) -> tuple[str, int]:
    """Return the line and the exit code for an error."""
    if isinstance(error, Interrupted):
        return str(error), 130
    # a library may turn an interruption into an error of its own
    if interrupted or isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED, 130
    if isinstance(error, InputError):
        return str(error), 2
    if hasattr(error, "format_message"):  # from typer: an unknown option, a missing argument
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            sys.exit(2)
        context = getattr(error, "ctx", None)
        command = "nearzero" if context is None else context.command_path
        return f"{error.format_message()} Try `{command} --help`.", 2
    if is_out_of_memory(error):
        return "memory is used up; use fewer runs, fewer units or a smaller data set", 2
    if isinstance(error, OSError):
        file = f"{error.filename}: " if error.filename else ""
        return f"{file}{error.strerror or error}", 2
    if "can't start new thread" in str(error):
        return (
            "the system has no thread left: its limits of memory or processes are reached, see `ulimit -a`",
            2,
        )
    if os.environ.get("NEARZERO_DEBUG"):
        raise error
    where = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
    return (
        f"a bug in nearzero ({type(error).__name__}: {error}{where}); please report it "
        "(NEARZERO_DEBUG=1 shows a traceback)",
        1,
    )
