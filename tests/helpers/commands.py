"""Run the commands of `nearzero` within the process of the tests."""

from __future__ import annotations

import sys
from contextlib import nullcontext

import pytest

from nearzero import cli


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error of `nearzero ARGUMENTS`, without lines about progress."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cli, "printing_lines", nullcontext)
        patched.setattr(sys, "argv", ["nearzero", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err
