"""Run what the tutorial and the reference of the probe tell a reader to run, and hold what they print against the page.

python .ci/tutorial.py            # run the pages, compare
python .ci/tutorial.py --write    # run them, and put what they print, and the figure, into the pages

The blocks of a page run in order, in an empty folder. One fenced as ``python`` goes on where the last one ended, as
in a notebook; where its first line is a comment with a file's name, it's written to that file, and not run. One
fenced as ``bash`` is run by the shell. What a block prints stands below it, fenced as ``text``: to the letter, or
as ``text about``, whose numbers come from a training, and so may be a little off on another processor.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = ("tutorial", "probe")
IMAGES = {"figure.png": "probe_tutorial.png"}  # made by a block, shown by a page
SLACK = 0.03  # share of a number, or that much of a share, by which "about" may be off
FENCE = re.compile(r"^```(python|bash|text|text about)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w.]+\.py)\n")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


def run_python(block: str, names: dict[str, Any], where: str) -> str:
    """What a block prints; a file if it's one."""
    named = FILE.match(block)
    if named:
        Path(named[1]).write_text(block, encoding="utf-8")
        return ""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, where, "exec"), names)
    return printed.getvalue()


def run_bash(block: str) -> str:
    """What a block prints; an error ends the run."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", block]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def plain(text: str) -> str:
    """Without blanks at the ends of lines."""
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n"


def same(stands: str, printed: str, about: bool) -> bool:
    """Whether a page says what was printed."""
    if not about:
        return stands == printed
    pairs = zip(NUMBER.findall(stands), NUMBER.findall(printed), strict=False)
    near = all(
        abs(one - other) <= SLACK * max(1.0, abs(one))
        for one, other in ((float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in pairs)
    )
    shapes = [re.sub(r"\s+", " ", NUMBER.sub("0", each)).strip() for each in (stands, printed)]
    return near and shapes[0] == shapes[1]


def run_page(page: Path, write: bool) -> int:
    """Run a page's blocks in the folder at hand; returns how many outputs are off."""
    text, names, off, printed = page.read_text(encoding="utf-8"), {"__name__": "__main__"}, 0, ""
    fresh, end = "", 0
    for found in FENCE.finditer(text):
        kind, block = found.groups()
        line = text[: found.start()].count("\n") + 1
        if kind.startswith("text"):
            if not same(block, plain(printed), kind == "text about"):
                off += 1
                print(f"{page.name}:{line}: stands\n{block}but printed is\n{plain(printed)}")
            fresh += text[end : found.start()] + f"```{kind}\n{plain(printed)}```"
            end = found.end()
            continue
        began = time.monotonic()
        where = f"{page.name}:{line}"
        printed = run_bash(block) if kind == "bash" else run_python(block, names, where)
        print(f"{where}: {kind}, {time.monotonic() - began:.1f} s", flush=True)
    if write:
        page.write_text(fresh + text[end:], encoding="utf-8")
        for made, shown in IMAGES.items():
            if Path(made).is_file():
                (ROOT / "docs" / "images" / shown).write_bytes(Path(made).read_bytes())
    return off


def main() -> int:
    """Run the pages."""
    os.environ["MPLBACKEND"] = "Agg"
    os.environ["OMP_NUM_THREADS"] = (
        "1"  # so small a network is slower on several, above all on a busy machine
    )
    sys.dont_write_bytecode = True
    off, began = 0, time.monotonic()
    for name in PAGES:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            sys.path.insert(0, folder)
            off += run_page(ROOT / "docs" / f"{name}.md", "--write" in sys.argv)
            sys.path.remove(folder)
    print(f"{len(PAGES)} pages run in {time.monotonic() - began:.0f} s, {off} outputs off")
    return 1 if off and "--write" not in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
