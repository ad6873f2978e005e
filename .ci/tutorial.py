"""Run the code blocks of pages that run as they are, and compare their output with the pages.

python .ci/tutorial.py            # run all pages and compare
python .ci/tutorial.py NAME...    # run some of them: tutorial, probe
python .ci/tutorial.py --write    # run the pages, and put the output and the figure into them

The blocks of a page are run in order, in a folder that holds nothing but the kept results and the grids. Blocks
fenced as ``python`` share their variables, as in a notebook; if the first line is a comment with the name of a file,
the block is written to that file and not run. Blocks fenced as ``bash`` are run by the shell. The output of a block
is below it, fenced as ``text`` if it must be equal, or as ``text about`` if its numbers come from a training and may
differ a little on another processor.
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
PAGES = (
    "install",
    "tutorial",
    "your_verdict",
    "your_data",
    "by_name",
    "new_family",
    "files",
    "probe",
    "critical_levels",
    "grids",
    "instrument",
)
KEPT = ("results", "grids")  # a page may read them
IMAGES = {"figure.png": "probe_tutorial.png"}  # file that a block makes, and the image on the page
SLACK = 0.03  # by which a number of "about" may differ: relative for numbers above 1, else absolute
FENCE = re.compile(r"^```(python|bash|text|text about)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w.]+\.py)\n")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


def run_python(block: str, names: dict[str, Any], where: str) -> str:
    """Run a block, or write it if it's a file; return its output."""
    file = FILE.match(block)
    if file:
        Path(file[1]).write_text(block, encoding="utf-8")
        return ""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(block, where, "exec"), names)
    return output.getvalue()


def run_bash(block: str) -> str:
    """Run a block; return its output. An error ends the script."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", block]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def plain(text: str) -> str:
    """Remove blank lines at the ends of a text and blanks at the ends of its lines."""
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n"


def same(on_page: str, output: str, about: bool) -> bool:
    """Return whether the text on a page agrees with an output."""
    if not about:
        return on_page == output
    pairs = zip(NUMBER.findall(on_page), NUMBER.findall(output), strict=False)
    near = all(
        abs(number - other) <= SLACK * max(1.0, abs(number))
        for number, other in ((float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in pairs)
    )
    shapes = [re.sub(r"\s+", " ", NUMBER.sub("0", text)).strip() for text in (on_page, output)]
    return near and shapes[0] == shapes[1]


def run_page(page: Path, write: bool) -> int:
    """Run a page's blocks in the current folder; return the number of outputs that differ."""
    text, names, differing, output = page.read_text(encoding="utf-8"), {"__name__": "__main__"}, 0, ""
    updated, end = "", 0
    for fence in FENCE.finditer(text):
        kind, block = fence.groups()
        line = text[: fence.start()].count("\n") + 1
        if kind.startswith("text"):
            if not same(block, plain(output), kind == "text about"):
                differing += 1
                print(f"{page.name}:{line}: the page has\n{block}but the output is\n{plain(output)}")
            updated += text[end : fence.start()] + f"```{kind}\n{plain(output)}```"
            end = fence.end()
            continue
        began = time.monotonic()
        where = f"{page.name}:{line}"
        output = run_bash(block) if kind == "bash" else run_python(block, names, where)
        print(f"{where}: {kind}, {time.monotonic() - began:.1f} s", flush=True)
    if write:
        page.write_text(updated + text[end:], encoding="utf-8")
        for file, image in IMAGES.items():
            if Path(file).is_file():
                (ROOT / "docs" / "images" / image).write_bytes(Path(file).read_bytes())
    return differing


def forget(folder: Path) -> None:
    """Forget the modules that a page wrote to its folder; the next page may write others of the same name."""
    written = {path.stem for path in folder.glob("*.py")}
    for name in written & set(sys.modules):
        del sys.modules[name]


def main() -> int:
    """Run the pages; return the exit status."""
    os.environ["MPLBACKEND"] = "Agg"
    os.environ["OMP_NUM_THREADS"] = "1"  # with such small networks several threads are slower
    sys.dont_write_bytecode = True
    differing, began = 0, time.monotonic()
    pages = [name for name in sys.argv[1:] if name != "--write"] or PAGES
    for name in pages:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            for kept in KEPT:
                Path(kept).symlink_to(ROOT / kept)
            sys.path.insert(0, folder)
            differing += run_page(ROOT / "docs" / f"{name}.md", "--write" in sys.argv)
            sys.path.remove(folder)
            forget(Path(folder))
    print(f"{len(pages)} pages run in {time.monotonic() - began:.0f} s, {differing} outputs differ")
    return 1 if differing and "--write" not in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
