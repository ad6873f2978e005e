"""Run the commands of `nearzero` within the process of the tests."""

from __future__ import annotations

import io
import re
import sys
from contextlib import nullcontext
from threading import Condition

import pytest

from nearzero import cli

PROGRESS = re.compile(r"(?!nearzero: ).+: (?:[\d,]+(?: of [\d,]+)?, )?[\d:]+\d\d(?:, .* left)?")


class Heard(io.StringIO):
    """A stream that lets a test wait for words."""

    def __init__(self) -> None:
        super().__init__()
        self._written = Condition()

    def write(self, text: str) -> int:
        with self._written:
            count = super().write(text)
            self._written.notify_all()
        return count

    def wait_for(self, words: str) -> None:
        """Wait for words that are written, or were before."""
        with self._written:
            assert self._written.wait_for(lambda: words in self.getvalue(), timeout=60), self.getvalue()


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error of `nearzero ARGUMENTS`, without lines about progress."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cli, "printing_lines", nullcontext)
        patched.setattr(sys, "argv", ["nearzero", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def beside_progress(err: str) -> str:
    """Return what a command says on standard error beside what it is doing, as it says on a slow machine."""
    return "".join(line for line in err.splitlines(keepends=True) if not PROGRESS.fullmatch(line.strip()))
