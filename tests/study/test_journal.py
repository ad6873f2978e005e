"""The journal: the lines of its log, and no effect on other logging of the process."""

from __future__ import annotations

import logging
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from nearzero.study.journal import Journal

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00  (.*)")


def lines_of(log: Path) -> list[str]:
    found = [LINE.fullmatch(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert all(found)
    return [match[1] for match in found if match]


def test_lines(tmp_path: Path) -> None:
    out = StringIO()
    for _ in range(2):  # the second goes on with the file
        with Journal.opened(Console(file=out, width=80), tmp_path / "log") as journal:
            journal.say("said, 100 % of it")
            journal.note("noted: é")
            journal.warn("warned")
    assert lines_of(tmp_path / "log") == ["said, 100 % of it", "noted: é", "NOTICE: warned"] * 2
    assert out.getvalue().count("said, 100 % of it\n") == 2
    assert "noted" not in out.getvalue()


def test_logs_at_the_same_time_stay_apart(tmp_path: Path) -> None:
    """The log of a grid and those of its studies, also in folders with dots in their names."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a.b").mkdir()
    with (
        Journal.opened(None, tmp_path / "a" / "log") as outer,
        Journal.opened(None, tmp_path / "a.b" / "log") as inner,
    ):
        outer.note("outer")
        inner.note("inner")
    assert lines_of(tmp_path / "a" / "log") == ["outer"]
    assert lines_of(tmp_path / "a.b" / "log") == ["inner"]


def test_a_log_that_cannot_be_written_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Journal.opened(None, tmp_path / "nowhere" / "log") as journal:  # it can't be opened
        journal.note("lost")
    if Path("/dev/full").exists():
        (tmp_path / "log").symlink_to("/dev/full")  # "no space left" to whoever writes
        with Journal.opened(None, tmp_path / "log") as journal:
            journal.note("lost")
            journal.warn("lost")
    assert capsys.readouterr() == ("", "")


def test_the_handler_is_gone_afterwards_and_others_are_untouched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, package = logging.getLogger(), logging.getLogger("nearzero")
    before = (root.level, list(root.handlers), package.level, list(package.handlers))
    with Journal.opened(None, tmp_path / "log") as journal:
        assert len(journal.logger.handlers) == 1
    assert not journal.logger.handlers
    assert (root.level, list(root.handlers), package.level, list(package.handlers)) == before
    assert capsys.readouterr() == ("", "")


def test_who_asks_for_these_lines_gets_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Journal.opened(None, tmp_path / "log") as journal:
        journal.note("not asked for")
    assert caplog.messages == []
    with caplog.at_level(logging.INFO, "nearzero"), Journal.opened(None, tmp_path / "log") as journal:
        journal.note("asked for")
    assert caplog.messages == ["asked for"]
