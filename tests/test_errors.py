"""Errors of the user: one clear line, whatever a file of a stranger's holds."""

from __future__ import annotations

from pathlib import Path

import pytest

import nearzero as nz
from nearzero.study.spec import load_complete_spec, read_settings, resolve


@pytest.mark.parametrize("line", ['offset = "as-{}"', "{} = 1", 'thresholds = "{}"', 'preset = "{}"'])
def test_a_long_value_is_shown_without_its_middle(line: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(line.format("a" * 5000) + "\n")
    with pytest.raises(nz.InputError) as error:
        resolve(settings=read_settings(path), origin=str(path))
    assert len(str(error.value)) < 2000
    assert "aaa...aaa" in str(error.value)


def test_a_message_of_many_words_keeps_what_to_do() -> None:
    error = nz.InputError(f"values must differ; got {list(range(5000))}; leave some out")
    assert len(str(error)) <= 1600
    assert str(error).startswith("values must differ; got [0, 1")
    assert str(error).endswith("4999]; leave some out")
    assert str(nz.InputError("short")) == "short"


def test_a_path_is_shown_whole(tmp_path: Path) -> None:
    path = tmp_path / "/".join(["folder" * 20] * 2) / "spec.toml"
    with pytest.raises(nz.InputError) as error:
        load_complete_spec(path)
    assert str(path) in str(error.value)


def test_a_message_is_one_line_that_controls_no_terminal() -> None:
    stranger = "abs\r\n\x1b[2Jrelu\u2028\u202ecap"
    assert (
        str(nz.InputError(f"there is no family {stranger}; choose"))
        == "there is no family abs   [2Jrelu  cap; choose"
    )
