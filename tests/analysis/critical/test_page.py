"""The blocks of `docs/critical_levels.md` run, in order, and print what stands below them."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FENCE = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_page_prints_what_it_says(tmp_path, monkeypatch):
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    printed, compared = "", 0
    for kind, block in FENCE.findall((ROOT / "docs" / "critical_levels.md").read_text(encoding="utf-8")):
        if kind == "text":
            assert block == printed
            compared += 1
            continue
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(block, names)
        printed = output.getvalue()
    assert compared == 4
    assert (tmp_path / "critical.png").stat().st_size > 10_000
    assert (tmp_path / "breaking.png").stat().st_size > 10_000


@pytest.mark.parametrize("shown", ["critical_levels.png", "first_to_break_relu.png"])
def test_its_figures_are_there(shown):
    assert f"images/{shown}" in (ROOT / "docs" / "critical_levels.md").read_text(encoding="utf-8")
    assert (ROOT / "docs" / "images" / shown).read_bytes()[:4] == b"\x89PNG"
