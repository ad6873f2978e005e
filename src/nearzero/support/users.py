"""Errors in a user's code: a note on what was run, and the user's own file and line.

The command line reads both, so that it never takes an error in a user's model or data for one of its own.
"""

from __future__ import annotations

import inspect
import re
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from nearzero.errors import InputError

__all__ = ["chain", "defined_at", "failing_part", "is_users", "note", "place", "reason", "running"]

MARK = "nearzero: "  # how the notes begin
OURS = Path(__file__).parents[1]
STANDARD = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
INSTALLED = {"site-packages", "dist-packages"}
FRAME = re.compile(r'^ *File "(.+)", line (\d+)', re.MULTILINE)  # in a traceback
WORKER = "Original Traceback"  # in the message of an error that PyTorch passes on from a worker


def note(error: BaseException, part: str) -> None:
    """Add a note to an error of a user's code: which part of it failed, and on what."""
    if not isinstance(error, InputError) and failing_part(error) is None:
        error.add_note(MARK + part)


@contextmanager
def running(part: str) -> Iterator[None]:
    """Run a block of a user's code; an error in it gets a note."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit included
        note(error, part)
        raise


def failing_part(error: BaseException) -> str | None:
    """Return the note on an error, or on what caused it: the part of the user's code that failed.

    Example:
        >>> from nearzero.support.users import failing_part, note
        >>> error = KeyError("x")
        >>> note(error, "the model fails")
        >>> failing_part(error)
        'the model fails'
    """
    notes = (line for each in chain(error) for line in getattr(each, "__notes__", ()))
    return next((line.removeprefix(MARK) for line in notes if line.startswith(MARK)), None)


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its cause, and so on."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def place(error: BaseException) -> str | None:
    """Return the user's own file and line in which an error arose, such as "net.py, line 7"; None if in none."""
    for each in chain(error):
        places = _frames(each.__traceback__)
        if isinstance(each, SyntaxError) and each.filename:
            places.append((each.filename, each.lineno or 0))
        if WORKER in str(each):
            places += [(file, int(line)) for file, line in FRAME.findall(str(each))]
        for file, line in reversed(places):
            if is_users(file):
                return _text(file, line)
    return None


def defined_at(named: object) -> str | None:
    """Return the user's own file and line in which a function or class, or a value's class, is defined."""
    while isinstance(named, partial):
        named = named.func
    for each in (named, type(named)):
        try:
            target: Any = inspect.unwrap(each)  # type: ignore[arg-type]
            file, line = inspect.getsourcefile(target), inspect.getsourcelines(target)[1]
        except (TypeError, OSError, ValueError):
            continue
        if file is not None and is_users(file):
            return _text(file, line)
    return None


def reason(error: BaseException) -> str:
    """Return the type of an error and the first line of its message; of a worker's error, as it was there.

    Example:
        >>> from nearzero.support.users import reason
        >>> reason(ValueError("no\\nthanks"))
        'ValueError: no'
    """
    lines = str(error).strip().splitlines()
    if any(WORKER in line for line in lines):
        after = max(i for i, line in enumerate(lines) if FRAME.match(line) or line.startswith("  "))
        return lines[min(after + 1, len(lines) - 1)]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _frames(traceback: TracebackType | None) -> list[tuple[str, int]]:
    """Return file and line of all frames, the deepest last."""
    frames = []
    while traceback is not None:
        frames.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    return frames


def is_users(file: str) -> bool:
    """Return whether a file is neither nearzero's, nor Python's, nor that of an installed package."""
    path = Path(file).resolve()
    if file.startswith("<") or INSTALLED.intersection(path.parts):
        return False
    return not any(path.is_relative_to(folder) for folder in (OURS, *STANDARD))


def _text(file: str, line: int) -> str:
    path, here = Path(file).resolve(), Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}, line {line}"
