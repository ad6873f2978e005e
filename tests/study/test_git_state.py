"""The record of the code: a commit, and whether anything but the study's own folder differs from it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nearzero.study import provenance


def test_a_changed_checkout_is_never_called_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, study = tmp_path / "src" / "provenance.py", tmp_path / "results" / "study"
    for folder in (source.parent, study):
        folder.mkdir(parents=True)
    source.write_text("one\n")
    (study / "log").write_text("begun\n")
    (tmp_path / ".gitignore").write_text("ignored\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "all"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    monkeypatch.setattr(provenance, "__file__", str(source))

    def changed() -> bool:
        state = provenance._git_state(study)
        assert state is not None
        assert len(state["commit"]) == 40
        return bool(state["changed"])

    assert not changed()
    (study / "log").write_text("written by the study\n")
    (study / "new").write_text("this too\n")
    (tmp_path / "ignored").write_text("")
    assert not changed()
    new = source.with_name("new.py")
    new.write_text("")
    assert changed()
    new.unlink()
    source.write_text("two\n")
    assert changed()
